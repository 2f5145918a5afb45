"""What the logs of other implementations have in common: times, ids, and what they do not say."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from datetime import datetime
from typing import Any

from recursor.errors import TrajectoryError
from recursor.types import Isolation, Usage


def rows(lines: Iterable[str | bytes]) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the objects of a log with the numbers of their lines.

    Raises:
        TrajectoryError: a line is no JSON object.
    """
    for number, line in enumerate(lines, 1):
        try:
            found = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise TrajectoryError(f"line {number} is not JSON: {error}") from None
        if not isinstance(found, dict):
            raise TrajectoryError(f"line {number} is no JSON object")
        yield number, found


def identity(*parts: object) -> str:
    """An id that is the same for the same log."""
    return hashlib.blake2b(repr(parts).encode(), digest_size=16).hexdigest()


def seconds(stamp: Any) -> float:
    """Seconds since the epoch of a time in ISO 8601; without a zone it is this machine's. 0 for none."""
    return datetime.fromisoformat(stamp).timestamp() if isinstance(stamp, str) else 0.0


def text(value: Any) -> str:
    """A text, or the JSON of what is none."""
    return value if isinstance(value, str) else "" if value is None else json.dumps(value)


def number(value: Any) -> float:
    """A number that is finite and not negative; 0.0 for all else."""
    good = isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < 1e15
    return float(value) if good else 0.0


def usage(found: Any, **names: str) -> Usage:
    """Tokens of one call, by the names that they have in a log."""
    counts = found if isinstance(found, dict) else {}
    return Usage(calls=1, **{ours: int(number(counts.get(theirs))) for ours, theirs in names.items()})


def isolation(sandbox: str) -> Isolation:
    """What a log says of where its code ran: the name alone."""
    unknown = "not in the log"
    return Isolation(sandbox, unknown, unknown, unknown, unknown, unknown, unknown)
