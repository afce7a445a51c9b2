"""FSDP2: parameters, gradients and the optimiser's state in shards, one for each process.

The network is one unit: all of its parameters are gathered for the forward pass of a step, and what is saved is the
memory of gradients and of the optimiser's state. Every process calls everything here, as tensors are gathered from all.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from lightning.fabric import Fabric
    from torch.distributed.device_mesh import DeviceMesh

BY_NAME = "by name"
"""In a checkpoint: the optimiser's state has the names of parameters, and not their numbers."""


def strategy(processes: int) -> Any:
    """Lightning Fabric's strategy for so many processes, all of which see different samples."""
    from lightning.fabric.strategies.model_parallel import ModelParallelStrategy

    return ModelParallelStrategy(shard, data_parallel_size=processes, tensor_parallel_size=1)


def shard(model: nn.Module, mesh: DeviceMesh) -> nn.Module:
    """Replace the parameters of a network by shards, in place."""
    from torch.distributed.fsdp import fully_shard

    fully_shard(model, mesh=mesh["data_parallel"])
    return model


def is_sharding(fabric: Fabric) -> bool:
    """Whether networks are sharded here."""
    from lightning.fabric.strategies.model_parallel import ModelParallelStrategy

    return isinstance(fabric.strategy, ModelParallelStrategy)


def options() -> Any:
    """How states are gathered: whole, and in the first process on the CPU."""
    from torch.distributed.checkpoint.state_dict import StateDictOptions

    return StateDictOptions(full_state_dict=True, cpu_offload=True)


@dataclass
class Sharded:
    """A network in shards, and a whole copy of it, on which the first process measures.

    Attributes:
        model: in shards.
        wrapped: the same as Fabric has it.
        whole: as it was at the last `gather`.
    """

    model: nn.Module
    wrapped: Any
    whole: nn.Module

    @staticmethod
    def of(model: nn.Module, fabric: Fabric) -> Sharded:
        """Shard a network, in place; its optimiser is made afterwards."""
        whole = copy.deepcopy(model)
        return Sharded(model, fabric.setup_module(model, move_to_device=False), whole)

    def gather(self) -> dict[str, Any]:
        """The whole state of the network; in other processes than the first it is empty."""
        from torch.distributed.checkpoint.state_dict import get_model_state_dict

        state = get_model_state_dict(self.model, options=options())
        if state:
            self.whole.load_state_dict(state)
        return state

    def restore(self, state: dict[str, Any]) -> None:
        """Give every process its shard of a whole state."""
        from torch.distributed.checkpoint.state_dict import StateDictOptions, set_model_state_dict

        set_model_state_dict(self.model, dict(state), options=StateDictOptions(full_state_dict=True))
        self.whole.load_state_dict(state)

    def optimiser_state(self, optimiser: torch.optim.Optimizer) -> dict[str, Any]:
        """The whole state of the optimiser, by the names of parameters."""
        from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict

        return {BY_NAME: plain(get_optimizer_state_dict(self.model, optimiser, options=options()))}


def restore_by_name(model: nn.Module, optimiser: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Put back the state of an optimiser that has the names of parameters, in shards or not."""
    from torch.distributed.checkpoint.state_dict import StateDictOptions, set_optimizer_state_dict

    whole = StateDictOptions(full_state_dict=True)
    set_optimizer_state_dict(model, optimiser, copy.deepcopy(state[BY_NAME]), options=whole)


def plain(state: Any) -> Any:
    """A state of dictionaries, lists and tensors, as a checkpoint holds it."""
    if isinstance(state, dict):
        return {key: plain(value) for key, value in state.items()}
    if isinstance(state, (list, tuple)):
        return [plain(value) for value in state]
    return state.detach() if isinstance(state, Tensor) else state
