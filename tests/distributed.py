"""What the processes of distributed tests run: importable functions, because each process is a fresh one.

`library` and `laboratory` fork two workers (see `tests.processes`). A worker joins a group of two through a file,
trains, and leaves what it found in `{rank}.pt` in its folder; the tests look at that. `alone` is the same training in
one process, on the batches of both.
"""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch._C._distributed_c10d import TCPStore
from torch.nn import functional as F

import convexnet as cx
from tests.processes import ended, fork

ROW = torch.zeros(2, 3)
STEPS = 5


class Every(nn.Module):
    """Every kind of interval on few parameters: [0, inf) in some columns, [0, 1], [-1, inf), (-inf, 0], [0, inf).

    Three rows do not divide evenly between two processes, and the one row of the head leaves the second with none.
    """

    def __init__(self, norm: bool = True) -> None:
        super().__init__()
        self.first, self.norm = nn.Linear(3, 4), nn.BatchNorm1d(4) if norm else nn.Identity()
        self.beside, self.slope = nn.Linear(7, 3), nn.PReLU(3)
        self.gain, self.less, self.head = nn.Parameter(torch.zeros(3)), nn.Linear(4, 3), nn.Linear(3, 1)

    def forward(self, x: Tensor) -> Tensor:
        z = F.softplus(self.norm(self.first(x)))
        y = self.slope(self.beside(torch.cat([z, x], 1)))
        return self.head(F.elu((1 + self.gain) * y - self.less(z)))


INTERVALS = {
    "beside.weight": ([[0.0] * 4 + [-torch.inf] * 3], [[torch.inf]]),
    "slope.weight": ([0.0], [1.0]),
    "gain": ([-1.0], [torch.inf]),
    "less.weight": ([[-torch.inf]], [[0.0]]),
    "head.weight": ([[0.0]], [[torch.inf]]),
}


def batch(dtype: torch.dtype = torch.float32, rows: int = 16) -> tuple[Tensor, Tensor]:
    """Points, and their labels: 1 outside a ball and -1 inside, which a convex function can tell apart."""
    x = torch.randn(rows, 3, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    y = (x.norm(dim=1) - x.norm(dim=1).median()).sign() + 0.0
    y[y == 0] = 1.0
    return x.to(dtype), y.to(dtype)


def loss_of(out: Tensor, y: Tensor) -> Tensor:
    return F.softplus(-y * out[:, 0]).mean()


def trained(
    forward: nn.Module, optimizer: torch.optim.Optimizer, x: Tensor, y: Tensor, after: Callable[[], Any]
) -> Any:
    """What `after` says after each step."""
    said: list[Any] = []
    for _ in range(STEPS):
        optimizer.zero_grad()
        loss_of(forward(x), y).backward()
        optimizer.step()
        said.append(after())
    return said


def sgd(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=0.5, momentum=0.9)


def alone(method: str) -> dict[str, Tensor]:
    """The weights after training in one process, in float64, without BatchNorm (whose batches would differ)."""
    torch.manual_seed(0)
    model = Every(norm=False).double()
    optimizer = sgd(model)
    cone = cx.constrain(model, ROW.double(), method=method).attach(optimizer)
    trained(model, optimizer, *batch(torch.float64), cone.violation)
    return model.state_dict()


def pair(act: Callable[[int], Any]) -> None:
    """Fork two processes, wait for both, and fail if one of them does."""
    succeeded([fork(lambda r=rank: status_of(act, r)) for rank in range(2)])


def succeeded(children: list[int]) -> None:
    """Wait for processes, and fail if one of them did."""
    failed = [status for status in map(ended, children) if status]
    if failed:
        raise SystemExit(f"{len(failed)} of {len(children)} processes failed, with status {failed}")


def status_of(act: Callable[[int], Any], rank: int) -> int:
    try:
        act(rank)
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


def library(folder: str) -> None:
    """The library's checks, in two processes."""
    pair(lambda rank: both(rank, folder))


def laboratory(folder: str, name: str = "main") -> None:
    """A run of the laboratory, in two processes that find around them what `torchrun` gives its own.

    `name` is a function of `tests.lab.runs.parallel`.

    The store by which they meet is this process's, as torchrun's is its agent's: its port is taken while they run.
    """
    from tests.lab.runs import parallel

    waiting, telling = os.pipe()

    def act(rank: int) -> None:
        with os.fdopen(os.dup(waiting), "rb", buffering=0) as told:
            port = told.read(8).decode().strip()
        numbers = {"RANK": rank, "LOCAL_RANK": rank, "ROLE_RANK": rank, "GROUP_RANK": 0, "MASTER_PORT": port}
        sizes = dict.fromkeys(("WORLD_SIZE", "LOCAL_WORLD_SIZE", "ROLE_WORLD_SIZE"), 2) | {"GROUP_WORLD_SIZE": 1}
        words = {"MASTER_ADDR": "127.0.0.1", "TORCHELASTIC_RUN_ID": "tests", "TORCHELASTIC_USE_AGENT_STORE": "True"}
        counts = {"TORCHELASTIC_RESTART_COUNT": 0, "TORCHELASTIC_MAX_RESTARTS": 0}
        os.environ.update({name: str(value) for name, value in {**numbers, **sizes, **words, **counts}.items()})
        os.environ["GLOO_SOCKET_IFNAME"] = "lo"
        getattr(parallel, name)(folder)

    children = [fork(lambda r=rank: status_of(act, r)) for rank in range(2)]
    # made after the forks, for it has threads
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    os.write(telling, f"{store.port:>8}".encode() * 2)
    succeeded(children)


@contextmanager
def group(rank: int, folder: str) -> Generator[dict[str, Any]]:
    """Two processes that talk through a file; what is put into the dictionary is saved at the end."""
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/init", rank=rank, world_size=2)
    found: dict[str, Any] = {}
    yield found
    torch.save(found, Path(folder) / f"{rank}.pt")
    distributed.barrier()
    distributed.destroy_process_group()


def both(rank: int, folder: str) -> None:
    """Everything in one pair of processes, because starting them takes longer than all that they do."""
    with group(rank, folder) as found:
        found["data parallel"] = data_parallel(rank)
        found["fully sharded"] = fully_sharded(rank)


def data_parallel(rank: int) -> dict[str, Any]:
    """DistributedDataParallel: each process has half of the batch, and starts from weights of its own."""
    from torch.distributed.optim import ZeroRedundancyOptimizer
    from torch.nn.parallel import DistributedDataParallel

    def run(method: str, wrap_first: bool, norm: bool = False, shared_out: bool = False) -> dict[str, Any]:
        torch.manual_seed(rank)
        model, example = Every(norm).double(), ROW.double()
        if wrap_first:
            wrapped = DistributedDataParallel(model)
            cone = cx.constrain(wrapped, example, method=method)
        else:
            cone = cx.constrain(model, example, method=method)
            wrapped = DistributedDataParallel(model)
        optimizer: Any = sgd(wrapped)
        if shared_out:  # each process steps on some of the parameters, and sends them to the others
            optimizer = ZeroRedundancyOptimizer(wrapped.parameters(), torch.optim.SGD, lr=0.5, momentum=0.9)
        cone.attach(optimizer)
        x, y = batch(torch.float64)
        said = trained(wrapped, optimizer, x[rank::2], y[rank::2], cone.violation)
        return {"violations": said, "weights": model.state_dict(), "convex": cx.certify(wrapped, example).convex}

    return {
        "exponentiate": run("exponentiate", wrap_first=True),
        "shift": run("shift", wrap_first=False),
        "softplus": run("softplus", wrap_first=False),
        "clip": run("clip", wrap_first=False, shared_out=True),
        "with BatchNorm": run("absolute", wrap_first=True, norm=True),
    }


def fully_sharded(rank: int) -> dict[str, Any]:
    """FSDP2: every process keeps a part of each parameter."""
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict, set_model_state_dict
    from torch.distributed.fsdp import fully_shard

    whole = StateDictOptions(full_state_dict=True)
    x, y = batch(torch.float64)

    def sharded(method: str, nested: bool = False) -> tuple[nn.Module, Any, torch.optim.Optimizer]:
        torch.manual_seed(0)
        model = Every(norm=False).double()
        cone = cx.constrain(model, ROW.double(), method=method)
        if nested:
            for layer in (model.beside, model.less):
                fully_shard(layer)
        fully_shard(model)
        return model, cone, sgd(model)

    found: dict[str, Any] = {}
    for method in ("clip", "absolute", "exponentiate"):
        model, cone, optimizer = sharded(method, nested=method == "absolute")
        cone.attach(optimizer)
        said = trained(model, optimizer, x[rank::2], y[rank::2], cone.violation)
        rows = [parameter.to_local().shape[0] for parameter in cone.tensors()]
        found[method] = {"violations": said, "rows": rows, "weights": get_model_state_dict(model, options=whole)}

    model, cone, optimizer = sharded("shift")
    try:
        cone.attach(optimizer)
        found["shift"] = "attached"
    except ValueError as error:
        found["shift"] = str(error)

    model, cone, _ = sharded("clip")
    torch.manual_seed(7)
    given = Every(norm=False).double().state_dict()
    set_model_state_dict(model, dict(given), options=whole)
    weights = get_model_state_dict(model, options=whole)
    found["loaded"] = {"violation": cone.violation(), "weights": weights, "given": given}
    return found
