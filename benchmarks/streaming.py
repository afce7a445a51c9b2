"""What it costs to read images from a folder while a network trains: ours, and torchvision's ImageFolder.

Run: python benchmarks/streaming.py [--images 2000] [--side 160] [--size 128] [--workers 2] [--rounds 7] [--smoke]

A folder of JPEG files is made in a temporary place: smooth random pictures of `side` pixels, four classes. Each row is
one pass over all of them in batches of 64, in an order drawn anew, with a window of random area, aspect and place that
is resized to `size` pixels, and flips: what ImageNet is trained with. Nothing is trained: the batches are counted.

- ours: `convexnet.lab.data` with `Streamed`, batches of bytes that are scaled to [0, 1] where the network is.
- ImageFolder: torchvision's data set and transforms (v2, on tensors: the faster way) behind a DataLoader with as many
  workers, and the same batches.

A round has one pass of each, the first one alternating; a ratio is that of the two in one round. The clock is the
wall's, as several processes work. Memory is what the workers and this process hold at a quarter of the pass and at its
end (proportional set sizes, Linux): where it grows with the images that were read, the second is larger.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

from convexnet.lab.data import Pictures, augmentation, batches, load

GOAL = 0.9
"""Images a second, as a share of ImageFolder's."""

BATCH = 64
CLASSES = 4


def draw(folder: Path, count: int, side: int) -> None:
    """Smooth pictures, whose files are about as large as those of photographs."""
    draws = np.random.default_rng(0)
    for half, number in (("train", count), ("val", 2 * CLASSES)):
        for k in range(number):
            place = folder / half / f"class{k % CLASSES}"
            place.mkdir(parents=True, exist_ok=True)
            coarse = draws.integers(0, 256, (side // 8, side // 8, 3), dtype=np.uint8)
            picture = Image.fromarray(coarse).resize((side, side), Image.Resampling.BICUBIC)
            noise = draws.integers(0, 24, (side, side, 3), dtype=np.uint8)
            Image.fromarray(np.asarray(picture) // 8 * 7 + noise).save(place / f"{k}.jpg", quality=90)


def ours(folder: Path, size: int, workers: int) -> Callable[[int], Iterable[torch.Tensor]]:
    data = load(f"folder:{folder}", validation=0, pictures=Pictures(size, True, workers))

    def read(seed: int) -> Iterable[torch.Tensor]:
        draws = torch.Generator().manual_seed(seed)
        for images, _ in batches(data.train, BATCH, generator=draws, augment=augmentation("resized-crop-flip")):
            yield images

    return read


def theirs(folder: Path, size: int, workers: int) -> Callable[[int], Iterable[torch.Tensor]]:
    change = v2.Compose(
        [
            v2.PILToTensor(),
            v2.RandomResizedCrop(size, antialias=True),
            v2.RandomHorizontalFlip(),
            v2.ToDtype(torch.float32, scale=True),
        ]
    )
    loader = DataLoader(ImageFolder(folder / "train", transform=change), BATCH, shuffle=True, num_workers=workers)

    def read(seed: int) -> Iterable[torch.Tensor]:
        torch.manual_seed(seed)
        for images, _ in loader:
            yield images

    return read


def held() -> float:
    """Megabytes that this process and its children hold; 0 where the system does not tell."""
    total = 0
    own = Path("/proc/self/task")
    children = [word for file in own.glob("*/children") for word in file.read_text().split()] if own.exists() else []
    for process in ("self", *children):
        try:
            lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
        except OSError:
            continue
        total += sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return total / 1024


def a_pass(read: Callable[[int], Iterable[torch.Tensor]], seed: int, count: int) -> tuple[float, float, float]:
    """Seconds of a pass, and megabytes at a quarter of it and near its end."""
    seen, quarter, last = 0, 0.0, 0.0
    looking = 0.0
    started = time.perf_counter()
    for images in read(seed):
        before, seen = seen, seen + len(images)
        if before < count // 4 <= seen or before < count - 2 * BATCH <= seen:
            paused = time.perf_counter()
            quarter, last = (held(), last) if before < count // 4 <= seen else (quarter, held())
            looking += time.perf_counter() - paused
    assert seen == count, f"{seen} of {count} images"
    return time.perf_counter() - started - looking, quarter, last


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--side", type=int, default=160, help="of the files' pictures, in pixels")
    parser.add_argument("--size", type=int, default=128, help="of what a network sees, in pixels")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--smoke", action="store_true", help="few small images: whether it runs")
    options = parser.parse_args()
    if options.smoke:
        options.images, options.side, options.size, options.workers, options.rounds = 256, 32, 16, 1, 2
    torch.set_num_threads(1)
    of = f"{options.images:,} images of {options.side} pixels"
    print(f"torch {torch.__version__}, {options.workers} workers, {of}, the wall's clock")
    print(f"goal: ours at least {GOAL} times as many images a second; memory flat over a pass\n")
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        draw(folder, options.images, options.side)
        given = options.size, options.workers
        ways = {"ours": ours(folder, *given), "ImageFolder": theirs(folder, *given)}
        found: dict[str, list[tuple[float, float, float]]] = {name: [] for name in ways}
        for round_ in range(options.rounds + 1):
            for name in sorted(ways, reverse=bool(round_ % 2)):
                one = a_pass(ways[name], round_, options.images)
                if round_:
                    found[name].append(one)
    pairs = zip(found["ImageFolder"], found["ours"], strict=True)
    ratios = [other[0] / own[0] for other, own in pairs]
    low, middle, high = statistics.quantiles(ratios, n=4, method="inclusive")
    print("| row | images/s | MB at a quarter | MB at the end | images/s / ImageFolder's | quartiles |")
    print("|---|---|---|---|---|---|")
    for name, passes in found.items():
        rate = options.images / statistics.median(seconds for seconds, _, _ in passes)
        memory = [statistics.median(one[k] for one in passes) for k in (1, 2)]
        ratio = [f"{middle:.2f}", f"{low:.2f}-{high:.2f}"] if name == "ours" else ["", ""]
        print(f"| {name} | {rate:,.0f} | {memory[0]:,.0f} | {memory[1]:,.0f} | {' | '.join(ratio)} |")


if __name__ == "__main__":
    main()
