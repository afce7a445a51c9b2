"""Note Ctrl-C and SIGTERM while a run trains, and stop it as soon as everything is written."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Generator
from pathlib import Path
from types import FrameType


class Stopped(KeyboardInterrupt):
    """Ctrl-C or SIGTERM, after a checkpoint was written.

    Attributes:
        signal: its number.
        checkpoint: where it is.
    """

    def __init__(self, number: int, checkpoint: Path) -> None:
        super().__init__(f"stopped by {signal.Signals(number).name}; {checkpoint} holds the whole state")
        self.signal, self.checkpoint = number, checkpoint


class Terminated(KeyboardInterrupt):
    """SIGTERM, where there is no run to write a checkpoint of: while data are read, say."""

    signal = signal.SIGTERM


@contextlib.contextmanager
def terminating() -> Generator[None, None, None]:
    """Raise `Terminated` at SIGTERM, instead of ending without a word; in the main thread only."""

    def handle(number: int, frame: FrameType | None) -> None:
        del number, frame
        raise Terminated

    main = threading.current_thread() is threading.main_thread()
    if not main or signal.getsignal(signal.SIGTERM) == signal.SIG_IGN:
        yield
        return
    before = signal.signal(signal.SIGTERM, handle)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextlib.contextmanager
def stopping() -> Generator[Callable[[], int | None], None, None]:
    """Note Ctrl-C and SIGTERM instead of dying; the second one interrupts at once. Yields what asks for the signal.

    Only the main thread may handle signals; elsewhere nothing changes.
    """
    asked: list[int] = []

    def handle(number: int, frame: FrameType | None) -> None:
        del frame
        if asked:
            raise KeyboardInterrupt
        asked.append(number)

    if threading.current_thread() is not threading.main_thread():
        yield lambda: None
        return
    kinds = [number for number in (signal.SIGINT, signal.SIGTERM) if signal.getsignal(number) != signal.SIG_IGN]
    before = {number: signal.signal(number, handle) for number in kinds}
    try:
        yield lambda: asked[0] if asked else None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
