"""Processes of a test's own: fresh ones without the seconds that importing torch and the laboratory takes.

`python -m tests.processes` imports what the commands import, uses none of it, and then forks a child for each request:
the child is a fresh process in all but its imports. Nothing may run before a fork that starts threads (automatic
differentiation does), which is why the test process itself is not forked.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import select
import subprocess
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
HANGING = 1800.0
"""Seconds after which a process is taken to hang. A limit below that would fail on a busy machine, not on a fault."""

IMPORTED = (
    "torch", "torchvision.models", "timm", "lightning.fabric", "matplotlib.pyplot",
    "sklearn.datasets", "sklearn.metrics", "sklearn.model_selection",
    # what torch.export imports when it is first used
    "networkx", "torch._export.non_strict_utils", "torch._export.serde", "torch._functorch.aot_autograd",
    "torch._inductor.codecache",
    "torch.distributed.fsdp", "torch.distributed.optim", "torch.nn.parallel", "torch.distributed.checkpoint.state_dict",
    "convexnet", "convexnet.lab.cli.app", "convexnet.lab.runs.run", "convexnet.lab.studies", "convexnet.lab.demo.page",
    "tests.lab.training.killed", "tests.lab.runs.parallel", "tests.distributed",
)  # fmt: skip


# --- for tests -------------------------------------------------------------------------------------------------------


class Forge:
    """The process that forks; started by the first request, ended with the tests."""

    def __init__(self) -> None:
        self.process: subprocess.Popen[str] | None = None

    def started(self) -> subprocess.Popen[str]:
        if self.process is None or self.process.poll() is not None:
            environment = {**os.environ, "NO_COLOR": "1", "COLUMNS": "120", "PYTHONPATH": os.pathsep.join(sys.path)}
            command = [sys.executable, "-m", "tests.processes"]
            pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
            self.process = subprocess.Popen(command, cwd=ROOT, env=environment, **pipes)
        return self.process

    def run(
        self,
        target: str,
        *arguments: str,
        folder: Path,
        argv: Sequence[str] = (),
        environment: Mapping[str, str] = {},
    ) -> subprocess.CompletedProcess[str]:
        """Call `module:function` with words, in a fresh process in `folder`; what it prints is in the result."""
        process, (out, err) = self.started(), (folder / f".forged-{name}" for name in ("out", "err"))
        request = {"target": target, "arguments": arguments, "argv": list(argv), "environment": dict(environment)}
        request |= {"folder": str(folder), "out": str(out), "err": str(err)}
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(json.dumps(request) + "\n")
        process.stdin.flush()
        ready, _, _ = select.select([process.stdout], [], [], HANGING)
        line = process.stdout.readline() if ready else ""
        if not line:
            process.kill()
            raise RuntimeError(f"{target} hangs, or the process that forks has ended: {process.wait()}")
        texts = [path.read_text(encoding="utf-8") for path in (out, err)]
        for path in (out, err):
            path.unlink()
        return subprocess.CompletedProcess([target, *arguments], int(line), *texts)

    def close(self) -> None:
        if self.process is not None:
            with self.process:  # which closes its pipes, upon which it ends, and waits
                pass


# --- the process itself ----------------------------------------------------------------------------------------------


def called(target: str, arguments: Sequence[str]) -> int:
    """The exit status of a function, as that of a process that runs it."""
    module, _, name = target.partition(":")
    status = 0
    try:
        getattr(importlib.import_module(module), name)(*arguments)
    except SystemExit as stopped:
        status = stopped.code if isinstance(stopped.code, int) else int(stopped.code is not None)
        if isinstance(stopped.code, str):
            print(stopped.code, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
        status = 1
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    return status


def fork(act: Callable[[], int]) -> int:
    """The number of a child that ends with the status of `act`."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            status = act()
        finally:
            os._exit(status)
    return pid


def ended(pid: int) -> int:
    """Wait for a child: its exit status, or minus the signal that ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def answered(request: Mapping[str, Any]) -> int:
    """In a child: do what was asked, printing into files."""
    for number, name in ((1, "out"), (2, "err")):
        file = os.open(request[name], os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        os.dup2(file, number)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.environ.update(request["environment"])
    os.chdir(request["folder"])
    sys.argv = request["argv"] or [request["target"], *request["arguments"]]
    return called(request["target"], request["arguments"])


def main() -> None:
    """Answer requests until there are no more."""
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for name in IMPORTED:
        with contextlib.suppress(ModuleNotFoundError):
            importlib.import_module(name)
    import torch

    torch.set_num_threads(1)
    while line := sys.stdin.readline():
        print(ended(fork(lambda text=line: answered(json.loads(text)))), file=replies, flush=True)


if __name__ == "__main__":
    main()
