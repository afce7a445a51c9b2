"""Model predictive control in a loop: at every step, the best controls of the next few, and the first of them applied.

    python examples/control_loop.py [--steps 40] [--out control_loop.png]

A cart of mass 1 on a rail is pushed by at most half a newton, and wind pushes it, too. What a step costs is a network:
a comfort term that was learnt (input-convex, of position, speed and push) beside a quadratic one. `cx.rollout` writes
the cost of twelve steps as one module, which is certified convex in the pushes, since the cart's motion is affine and
the cost is convex in everything. `cx.Minimiser` reads it once; every step of the loop starts from the last solution.

The same cart with the unconstrained linear-quadratic regulator, its pushes cut off, is what the loop is compared with.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from torch import Tensor, nn

import convexnet as cx

STRONGEST = 0.5
"""Newtons."""

TICK = 0.25
"""Seconds from one push to the next."""

MOTION = torch.tensor([[1.0, TICK], [0.0, 1.0]], dtype=torch.float64)
PUSH = torch.tensor([[TICK**2 / 2], [TICK]], dtype=torch.float64)


class Cart(nn.Module):
    """Position and speed (B, 2) after a tick with a push (B, 1)."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("motion", MOTION.clone())
        self.register_buffer("push", PUSH.clone())

    def forward(self, state: Tensor, control: Tensor) -> Tensor:
        return state @ self.motion.T + control @ self.push.T


class Discomfort(nn.Module):
    """What a tick costs: being away from 0, pushing, and what the network has learnt."""

    def __init__(self, learnt: nn.Module) -> None:
        super().__init__()
        self.learnt = learnt

    def forward(self, state: Tensor, control: Tensor) -> Tensor:
        plain = state[:, 0].square() + 0.3 * state[:, 1].square() + 0.1 * control[:, 0].square()
        return plain + 0.5 * self.learnt(torch.cat([state, control], 1))[:, 0]


def learn_discomfort(epochs: int) -> nn.Module:
    """A network of (position, speed, push) fitted to what passengers said: fast is bad, fast in a curve is worse."""
    torch.manual_seed(0)
    network = cx.nn.FICNN(3, hidden=(16, 16), activation="softplus").double()
    generator = torch.Generator().manual_seed(1)
    seen = 2 * torch.rand(1500, 3, generator=generator, dtype=torch.float64) - 1
    said = torch.relu(seen[:, 1].abs() - 0.4) * 3 + torch.relu(seen[:, 1] * 2 + seen[:, 0] - 1)
    said = said + 0.05 * torch.randn(1500, generator=generator, dtype=torch.float64)
    optimiser = torch.optim.Adam(network.parameters(), lr=1e-2)
    for _ in range(epochs):
        optimiser.zero_grad()
        nn.functional.mse_loss(network(seen)[:, 0], said).backward()
        optimiser.step()
    return network.requires_grad_(False)


def regulator(steps: int = 400) -> Tensor:
    """The gain (1, 2) of the linear-quadratic regulator for the quadratic part of the cost, by iterating Riccati's
    equation."""
    weight = torch.diag(torch.tensor([1.0, 0.3], dtype=torch.float64))
    value, gain = weight, torch.zeros(1, 2, dtype=torch.float64)
    for _ in range(steps):
        gain = torch.linalg.solve(0.1 + PUSH.T @ value @ PUSH, PUSH.T @ value @ MOTION)
        value = weight + MOTION.T @ value @ (MOTION - PUSH @ gain)
    return gain


def main(steps: int, horizon: int, epochs: int, out: Path | None) -> tuple[float, float]:
    """Run both controllers through the same wind; prints and returns what they cost."""
    cart, discomfort = Cart(), Discomfort(learn_discomfort(epochs))
    plan = cx.Minimiser(
        cx.rollout(cart, discomfort, horizon), cx.Box(-STRONGEST, STRONGEST, shape=(horizon, 1)), tol=1e-5
    )
    gain = regulator()
    wind = 0.05 * torch.randn(steps, 2, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    states = {name: torch.tensor([[1.5, 0.0]], dtype=torch.float64) for name in ("planned", "regulated")}
    spent, paths = dict.fromkeys(states, 0.0), {name: [state] for name, state in states.items()}
    last, unproved = None, 0
    for step in range(steps):
        last = plan(states["planned"], start=last)
        unproved += int(not last.converged.all())
        pushes = {
            "planned": last.x[:, 0],
            "regulated": (-states["regulated"] @ gain.T).clamp(-STRONGEST, STRONGEST),
        }
        for name, state in states.items():
            spent[name] += discomfort(state, pushes[name]).item()
            states[name] = cart(state, pushes[name]) + wind[step]
            paths[name].append(states[name])
    print(f"planned: {spent['planned']:.3f}, every plan proved best: {unproved == 0}")
    print(f"regulated, cut off: {spent['regulated']:.3f}")
    if out is not None:
        draw(out, {name: torch.cat(path) for name, path in paths.items()})
        print(f"{out} is written")
    return spent["planned"], spent["regulated"]


def draw(file: Path, paths: dict[str, Tensor]) -> None:
    """The positions and speeds of both carts."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    for place, (axis, name) in enumerate(zip(figure.subplots(2, 1, sharex=True), ("position", "speed"), strict=True)):
        for controller, path in paths.items():
            axis.plot([TICK * step for step in range(len(path))], path[:, place].numpy(), label=controller)
        axis.axhline(0, color="#888", linewidth=0.8)
        axis.set(ylabel=name)
        axis.legend(frameon=False)
    axis.set(xlabel="seconds")
    figure.savefig(file, dpi=120)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--horizon", type=int, default=12)
    parser.add_argument("--epochs", type=int, default=400)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    main(options.steps, options.horizon, options.epochs, options.out)
