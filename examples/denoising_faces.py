"""Take noise off faces with a convex regulariser that is learnt.

    python examples/denoising_faces.py [--data DATA] [--steps 150] [--out denoising_faces.png]

A picture y is judged by a convolutional network R(y), convex for all its weights. The denoised picture of v is the
proximal point argmin R(y) + ‖y − v‖² / 2, which `cx.prox` finds with a proof of how near it is. R learns by the error
of that point, differentiated through the minimum, on patches of 16 × 16 pixels; and since it has convolutions alone, it
then takes pictures of any size. Two differences to a denoising network: every answer is the minimum of a function that
can be looked at, and the same R goes into other problems: below, a picture of which a third of the pixels is lost,
by `cx.minimise` with another data term.

DATA is the folder of `olivettifaces.mat`; without it, scikit-learn's digits take the place of the faces. Needs the
extra `lab` (scikit-learn, scipy, and matplotlib for the picture).
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import convexnet as cx

NOISE = 0.1
"""Standard deviation; grey values are from 0 to 1."""


class Regulariser(nn.Module):
    """R(y) = Σ softplus of filters of softplus of filters of y, of pictures (B, 1, H, W) of any size; (B,).

    The first filters have any sign, the second ones are non-negative: by the composition rule R is convex.
    """

    def __init__(self, filters: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, filters, 5, bias=False)
        self.second = cx.nn.ConvexConv2d(filters, filters, 3)
        self.weights = nn.Parameter(torch.full((filters,), -7.0))  # at first hardly anything is changed
        self.sharp = 8.0

    def forward(self, y: Tensor) -> Tensor:
        a = self.first(F.pad(y, (2, 2, 2, 2), mode="replicate"))
        bent = F.softplus(self.sharp * a) + F.softplus(-self.sharp * a)
        found = F.softplus(self.second(bent)).sum((2, 3))
        return found @ F.softplus(self.weights)


class Inpainting(nn.Module):
    """R(y) + ½ Σ over the known pixels of (y − v)², of inputs (v, known, y)."""

    def __init__(self, regulariser: nn.Module) -> None:
        super().__init__()
        self.regulariser = regulariser

    def forward(self, v: Tensor, known: Tensor, y: Tensor) -> Tensor:
        return self.regulariser(y) + (known * (y - v)).square().flatten(1).sum(1) / 2


def pictures(data: Path | None) -> tuple[Tensor, Tensor]:
    """Pictures to learn from, and others, (N, 1, H, W): faces of other people, or digits."""
    if data is not None:
        from scipy.io import loadmat

        faces = torch.from_numpy(loadmat(data / "olivettifaces.mat")["faces"].T.astype("float32"))
        faces = faces.reshape(-1, 1, 64, 64).transpose(2, 3) / 255
        return faces[:350], faces[350::10]
    from sklearn.datasets import load_digits

    digits = torch.from_numpy(load_digits().images).float()[:, None] / 16
    digits = F.interpolate(digits, scale_factor=2, mode="bilinear")
    return digits[:1000], digits[1000:1006]


def patches(whole: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Random patches of 16 × 16 pixels, (count, 1, 16, 16)."""
    high, wide = whole.shape[-2:]
    which = torch.randint(len(whole), (count,), generator=generator)
    rows = torch.randint(high - 15, (count,), generator=generator)
    columns = torch.randint(wide - 15, (count,), generator=generator)
    return torch.stack(
        [
            whole[k, :, i : i + 16, j : j + 16]
            for k, i, j in zip(which.tolist(), rows.tolist(), columns.tolist(), strict=True)
        ]
    )


def learn(regulariser: nn.Module, clean: Tensor, steps: int) -> None:
    """Train so that the proximal point of a noisy patch is near the clean one."""
    draws = torch.Generator().manual_seed(0)
    optimiser = torch.optim.Adam(regulariser.parameters(), lr=0.02)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    space = cx.Box(-1, 2, shape=(1, 16, 16))
    for step in range(steps):
        truth = patches(clean, 16, draws)
        noisy = truth + NOISE * torch.randn(truth.shape, generator=draws)
        found = cx.prox(regulariser, noisy, 1.0, space, tol=1e-3, solver="fista").x
        loss = (found - truth).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
        if step % 25 == 0 or step == steps - 1:
            print(f"step {step}: {psnr(found.detach(), truth):.2f} dB of noisy patches at {psnr(noisy, truth):.2f} dB")


def psnr(found: Tensor, truth: Tensor) -> float:
    """Peak signal-to-noise ratio in decibels; larger is better."""
    return float(-10 * (found - truth).square().mean().log10())


def draw(file: Path, rows: list[tuple[str, Tensor]]) -> None:
    """Rows of pictures, each with its title."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 1.35 * len(rows)), layout="constrained")
    for axes, (title, row) in zip(figure.subplots(len(rows), 1), rows, strict=True):
        axes.imshow(torch.cat(list(row[:, 0]), 1).clamp(0, 1).numpy(), cmap="gray", vmin=0, vmax=1)
        axes.set_title(title, fontsize=9)
        axes.set_axis_off()
    figure.savefig(file, dpi=80, transparent=True)


def main(data: Path | None, steps: int, out: Path | None, filters: int = 12, shown: int = 5) -> tuple[float, float]:
    """Learn, denoise and fill in; returns the decibels of the noisy pictures and of the denoised ones."""
    torch.manual_seed(0)
    train, test = pictures(data)
    regulariser = Regulariser(filters)
    print(cx.certify(regulariser, torch.zeros(1, 1, 16, 16)).headline())
    learn(regulariser, train, steps)

    truth = test[:shown]
    draws = torch.Generator().manual_seed(1)
    noisy = truth + NOISE * torch.randn(truth.shape, generator=draws)
    space = cx.Box(-1, 2, shape=tuple(truth.shape[1:]))
    with torch.no_grad():
        denoised = cx.prox(regulariser, noisy, 1.0, space, tol=1e-2, solver="fista")
    before, after = psnr(noisy, truth), psnr(denoised.x, truth)
    print(f"noisy {before:.2f} dB, denoised {after:.2f} dB; {denoised.message}")

    known = (torch.rand(truth.shape, generator=draws) > 1 / 3).float()
    gaps = torch.where(known > 0, noisy, 0.0)
    with torch.no_grad():
        filled = cx.minimise(Inpainting(regulariser), space, (gaps, known), tol=1e-2, solver="fista")
    print(f"a third of the pixels lost: filled in {psnr(filled.x, truth):.2f} dB; {filled.message}")
    if out is not None:
        titles = ("true", f"noisy, {before:.1f} dB", f"prox, {after:.1f} dB", "a third lost", "filled in by minimise")
        draw(out, list(zip(titles, (truth, noisy, denoised.x, gaps, filled.x), strict=True)))
        print(f"{out} is written")
    return before, after


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path)
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    main(options.data, options.steps, options.out)
