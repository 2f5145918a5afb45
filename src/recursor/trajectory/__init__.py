"""What was recorded of runs: the store, its read side, and what they are written as elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from recursor.trajectory.view import Trajectories


def open(path: str | Path) -> Trajectories:  # noqa: A001 - `trajectory.open(path)`, as `gzip.open`
    """Open a store for reading.

    Raises:
        TrajectoryError: there is no such file, or it is no store that this recursor can read.
    """
    from recursor.trajectory import view  # noqa: PLC0415 - imports sqlite3

    return view.open(path)
