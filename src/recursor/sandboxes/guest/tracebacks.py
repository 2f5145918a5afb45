"""What went wrong in a block, as a person would want to read it."""

from __future__ import annotations

import os
import traceback

from .hints import hint

_OURS = os.path.dirname(os.path.abspath(__file__))
_MAX_ERROR = 6000
_OF_THE_START = (
    ". Site initialization is disabled, did you forget to add the site-packages directory to sys.path "
    "or to enable your virtual environment?"
)
"""What Python 3.15 tells of a module that is not there. Workers start without `site`, and have its folders."""


def explained(error: BaseException) -> str:
    """The traceback as a person would want it: source lines, without our own frames."""
    try:
        report = traceback.TracebackException.from_exception(error, compact=True)
        _strip(report, set())
        text = "".join(report.format()).rstrip().replace(_OF_THE_START, "")
        text += hint(error)
    except BaseException:  # noqa: BLE001 - the exception's own __str__ may raise anything
        text = f"{type(error).__name__}: (the exception's text could not be made)"
    if len(text) > _MAX_ERROR:
        half = _MAX_ERROR // 2
        text = f"{text[:half]}\n... [{len(text) - 2 * half:,} characters left out] ...\n{text[-half:]}"
    return text


def _strip(report: traceback.TracebackException, seen: set[int]) -> None:
    if id(report) in seen:
        return
    seen.add(id(report))
    kept = [frame for frame in report.stack if not frame.filename.startswith(_OURS)]
    report.stack[:] = [frame for frame in kept if "concurrent/futures" not in frame.filename]
    for other in (report.__cause__, report.__context__):
        if other is not None:
            _strip(other, seen)
    for other in report.exceptions or () if hasattr(report, "exceptions") else ():
        _strip(other, seen)
