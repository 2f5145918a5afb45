"""A check of loaders, for whoever writes one."""

from __future__ import annotations

import io
from collections.abc import Mapping

from recursor.files import Loader
from recursor.sandboxes.guest import values

CUTS = 64
"""Pieces of each sample that are tried."""


def check_loader(loader: Loader, samples: Mapping[str, bytes]) -> None:
    """Try a loader against its contract, here and without a sandbox: with samples of your own only.

    Args:
        samples: contents of good files, by what they are called. Each is read whole, cut short, and spoilt.

    Raises:
        AssertionError: it breaks the contract; the text says where.
    """
    assert isinstance(loader, Loader), f"{loader!r} has no suffixes or no load"
    assert loader.suffixes, "there must be a suffix"
    assert not isinstance(loader.suffixes, str), "suffixes must be a list of them"
    for suffix in loader.suffixes:
        assert suffix.startswith("."), f"a suffix begins with a dot: {suffix!r}"
        assert suffix == suffix.lower(), f"a suffix is in lower case: {suffix!r}"
    assert samples, "there must be a sample"
    for name, data in samples.items():
        try:
            first = _read(loader, data, name)
        except ValueError as error:
            raise AssertionError(f"{name} is a good file, and load says: {error}") from error
        assert _read(loader, data, name) == first, f"{name} is read in another way the second time"
        for number in range(CUTS):
            at = len(data) * number // CUTS
            spoilt = data[:at] + bytes(255 - byte for byte in data[at : at + 4]) + data[at + 4 :]
            for what, piece in (("cut", data[:at]), ("spoilt", spoilt)):
                try:
                    _read(loader, piece, f"{name}, {what} at {at:,}")
                except ValueError:
                    continue


def _read(loader: Loader, data: bytes, name: str) -> bytes:
    """What a file is read as, encoded."""
    try:
        value, note = loader.load(io.BytesIO(data))
    except ValueError:
        raise
    except Exception as error:
        raise AssertionError(f"{name}: load must raise ValueError alone, not {error!r}") from error
    assert isinstance(note, str), f"{name}: what the root LM is told must be a str, not {note!r}"
    try:
        return values.encode(value)[1]
    except values.NotPlain as error:
        raise AssertionError(f"{name}: the value is not plain: {error}") from error
