"""What holds for every test and doctest: one seed, one thread a worker, no network, no trace left in torch.

What the tests draw is the same on every run, on every machine and in every order: the tests' own draws come from a
fixed seed and Hypothesis is derandomised, so that a change fails for what it changed. `CONVEXNET_TEST_SEED=7 make test`
draws others, of the tests and of Hypothesis, and the header says which; `make fuzz` is the command that explores.
"""

from __future__ import annotations

import gc
import hashlib
import ipaddress
import os
import random
import socket
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis.internal.conjecture import providers

SEED_VARIABLE = "CONVEXNET_TEST_SEED"
DEFAULT_SEED = 2021
LEFT_OUT = {
    "slow": "make slow",
    "real_data": "python -m pytest -m real_data",
    "gpu": "python -m pytest -m gpu",
}

# torch reads these when it is first imported, which must come later: see the imports inside the fixtures.
for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(variable, "1")
os.environ.setdefault("MPLBACKEND", "Agg")

settings.register_profile(
    "ci",
    deadline=None,
    print_blob=True,
    database=None,  # a failure of yesterday must not change what is drawn today
    derandomize=SEED_VARIABLE not in os.environ,  # it would ignore a seed
    suppress_health_check=[HealthCheck.too_slow],  # a busy machine is no fault of a test
)
settings.register_profile("thorough", parent=settings.get_profile("ci"), max_examples=1000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))
# Hypothesis also draws constants that it reads in those of our modules that happen to be imported: one test would draw
# something else alone than after others, and after any edit.
if hasattr(providers, "_get_local_constants"):
    providers._get_local_constants = lambda: providers._local_constants  # pyright: ignore[reportPrivateUsage]


def seed_base() -> int:
    return int(os.environ.get(SEED_VARIABLE, DEFAULT_SEED))


def seed_of(name: str) -> int:
    """The number that belongs to one test: the same alone, in another order and on another worker."""
    return int.from_bytes(hashlib.sha256(f"{seed_base()} {name}".encode()).digest()[:4], "big")


@pytest.fixture(scope="session")
def forge() -> Iterator[Any]:
    """Fresh processes without the time that imports take: see tests/processes.py."""
    from tests.processes import Forge

    made = Forge()
    yield made
    made.close()


@pytest.fixture(scope="session")
def common_seed() -> int:
    """A number that tests have in common: what it makes is kept for all of them, and no test changes it."""
    return seed_of("what tests have in common")


class Surroundings:
    """Fixtures and reports for doctests under src too, which a plain conftest.py would reach only under tests/."""

    def __init__(self) -> None:
        self.deselected: Counter[str] = Counter()

    @pytest.fixture
    def seed(self, request: pytest.FixtureRequest) -> int:
        """A number of this test's own, printed so that the report of a failure shows it."""
        value = seed_of(request.node.nodeid)
        print(f"seed {value} (from {SEED_VARIABLE}={seed_base()})")
        return value

    @pytest.fixture(autouse=True)
    def _torch_as_found(self, request: pytest.FixtureRequest) -> Iterator[None]:
        """Seed every generator before a test; fail a test that leaves torch's global settings changed."""
        import numpy as np
        import torch

        value = seed_of(request.node.nodeid)
        random.seed(value)
        np.random.seed(value)  # noqa: NPY002 (scikit-learn draws from it)
        # torch.manual_seed keeps a formatted stack for every accelerator that is not there: a third of a short test.
        (torch.manual_seed if torch.accelerator.is_available() else torch.default_generator.manual_seed)(value)
        torch.set_num_threads(1)
        before = torch.get_default_dtype(), torch.is_grad_enabled()
        yield
        after = torch.get_default_dtype(), torch.is_grad_enabled()
        torch.set_default_dtype(before[0])
        torch.set_grad_enabled(before[1])
        assert after == before, f"the test left torch's (default dtype, grad mode) at {after}; it found {before}"

    @pytest.fixture(autouse=True)
    def _no_network(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Tests run on a machine without a network: anything but this machine itself is refused."""
        connect, connect_ex, resolve = socket.socket.connect, socket.socket.connect_ex, socket.getaddrinfo

        def allowed(family: int, address: Any) -> None:
            if family in (socket.AF_INET, socket.AF_INET6) and not is_local(address[0]):
                pytest.fail(f"a test tried to reach {address[0]}; tests use no network")

        def guarded_connect(self: socket.socket, address: Any) -> None:
            allowed(self.family, address)
            connect(self, address)

        def guarded_connect_ex(self: socket.socket, address: Any) -> int:
            allowed(self.family, address)
            return connect_ex(self, address)

        def guarded_resolve(host: Any, *arguments: Any, **keywords: Any) -> Any:
            allowed(socket.AF_INET, (host,))
            return resolve(host, *arguments, **keywords)

        monkeypatch.setattr(socket.socket, "connect", guarded_connect)
        monkeypatch.setattr(socket.socket, "connect_ex", guarded_connect_ex)
        monkeypatch.setattr(socket, "getaddrinfo", guarded_resolve)

    @pytest.hookimpl(trylast=True)
    def pytest_collection_finish(self) -> None:
        """Let the collector of cycles pass over torch, the packages and the tests themselves, which stay to the end.

        It would walk through half a million objects again and again: a fifth of the time of a short `minimise`.
        """
        gc.collect()
        gc.freeze()
        gc.set_threshold(20_000, 20, 20)

    def pytest_deselected(self, items: list[pytest.Item]) -> None:
        for item in items:
            mark = next(
                (name for name in LEFT_OUT if item.get_closest_marker(name)), "not selected on the command line"
            )
            self.deselected[mark] += 1

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        output = getattr(session.config, "workeroutput", None)
        if output is not None:
            output["deselected"] = dict(self.deselected)

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any, error: object) -> None:
        del error
        # Every worker collects every test and leaves out the same ones: the last report stands for all.
        self.deselected = Counter(getattr(node, "workeroutput", {}).get("deselected", {}))

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        if self.deselected:
            terminalreporter.section("not run")
            for mark, count in sorted(self.deselected.items()):
                command = f"   run: {LEFT_OUT[mark]}" if mark in LEFT_OUT else ""
                terminalreporter.write_line(f"{count:5d} {mark}{command}")
        if skipped := len(terminalreporter.stats.get("skipped", ())):
            terminalreporter.write_line(f"{skipped:5d} skipped, for the reasons below")


def is_local(host: Any) -> bool:
    name = host.decode() if isinstance(host, bytes) else host
    if name in (None, "", "localhost", socket.gethostname()):
        return True
    try:
        return ipaddress.ip_address(name.split("%")[0]).is_loopback
    except ValueError:
        return False


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(Surroundings(), "convexnet-surroundings")
    # Set here, before Hypothesis reads the option and before xdist hands the options to its workers.
    if config.getoption("hypothesis_seed", None) is None and SEED_VARIABLE in os.environ:
        config.option.hypothesis_seed = os.environ[SEED_VARIABLE]


def pytest_report_header(config: pytest.Config) -> str:
    forced = config.getoption("hypothesis_seed", None)
    drawn = "derandomised" if forced is None else f"seed {forced}"
    return f"seed {seed_base()}, Hypothesis {drawn}: the same draws on every run; {SEED_VARIABLE}=N draws others"
