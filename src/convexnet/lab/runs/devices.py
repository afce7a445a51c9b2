"""Start the processes and devices of a run by Lightning's Fabric, on this machine or under `torchrun`."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch

from convexnet.lab.runs.place import Place
from convexnet.lab.training import sharded

if TYPE_CHECKING:
    from lightning.fabric import Fabric


def launched(place: Place, precision: str) -> Fabric:
    """Lightning's Fabric for this place; under `torchrun` it joins the processes that are there."""
    from lightning.fabric import Fabric
    from lightning.fabric.utilities.exceptions import MisconfigurationException

    if precision.endswith("-true") and precision != "32-true":
        raise ValueError(f"precision {precision!r} keeps the weights themselves in it: take bf16-mixed or 32-true")
    devices, nodes = processes(place.devices)
    strategy: Any = "ddp" if devices * nodes > 1 else "auto"
    if place.sharded and devices * nodes > 1:
        strategy = sharded.strategy(devices * nodes)
    kind: Any = precision
    try:
        fabric = Fabric(
            accelerator=place.accelerator, devices=devices, num_nodes=nodes, strategy=strategy, precision=kind
        )
    except (MisconfigurationException, RuntimeError) as error:
        raise ValueError(f"{place.devices} of {place.accelerator!r} are not available here: {error}") from error
    fabric.launch()
    return fabric


def processes(devices: int) -> tuple[int, int]:
    """How many processes a machine has, and how many machines there are: under `torchrun` as it says.

    Raises:
        ValueError: it says something else than what was asked for.
    """
    here = int(os.environ.get("LOCAL_WORLD_SIZE", devices))
    if devices not in (1, here):
        raise ValueError(f"torchrun started {here} processes on this machine, and {devices} devices were asked for")
    return here, max(1, int(os.environ.get("WORLD_SIZE", here)) // here)


def leave() -> None:
    """End the group of processes, once all are here: one that ends alone may abort, as its threads wait for others."""
    from torch import distributed

    if distributed.is_available() and distributed.is_initialized():
        distributed.barrier()
        distributed.destroy_process_group()


def agreement(fabric: Fabric) -> Callable[[bool], bool]:
    """Whether any of the processes says so."""

    def agreed(said: bool) -> bool:
        if fabric.world_size == 1:
            return said
        return bool(fabric.all_reduce(torch.tensor(float(said), device=fabric.device), reduce_op="sum"))

    return agreed
