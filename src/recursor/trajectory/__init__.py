"""What was recorded of runs: the store, its read side, and JSONL. `open(path)` reads a store."""

from recursor.trajectory.view import open  # noqa: A004 - `trajectory.open(path)`, as `gzip.open`

__all__ = ["open"]
