"""Write what a run logs while it trains: its curve as CSV, and events for TensorBoard."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path

from convexnet.lab.atomic import write_whole
from convexnet.learner import moment_of


def write_csv(path: Path, curve: Sequence[dict[str, float]]) -> None:
    """Write the whole curve, one epoch a line; what was not measured in an epoch stays empty.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_csv(Path(folder) / "log.csv", [{"epoch": 1, "loss": 2.5}, {"epoch": 2, "loss": 1.5, "test": 0.5}])
        ...     (Path(folder) / "log.csv").read_text().splitlines()
        ['epoch,loss,test', '1,2.5,', '2,1.5,0.5']
    """
    columns = list(dict.fromkeys(name for point in curve for name in point))
    stream = io.StringIO()
    writer = csv.DictWriter(stream, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(curve)
    write_whole(path, stream.getvalue())


class Board:
    """A TensorBoard log of a run; a resumed run goes on in it, and what was written beyond its checkpoint is hidden."""

    def __init__(self, folder: Path, done: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.writer, self.done = SummaryWriter(str(folder), purge_step=done + 1), done

    def add(self, point: dict[str, float]) -> None:
        """Write one point; the first word of a name is the group of its picture."""
        self.done += 1
        counter, number = moment_of(point) or ("", self.done)
        for name, value in point.items():
            if name != counter:
                part, _, quantity = name.partition("_")
                self.writer.add_scalar(f"{quantity}/{part}", value, int(number))
        self.writer.flush()

    def close(self) -> None:
        """Finish the file."""
        self.writer.close()
