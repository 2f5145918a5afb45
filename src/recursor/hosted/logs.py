"""What the packages of the protocols log goes to stderr, without messages of hosts and editors: errors repeat these."""

from __future__ import annotations

import logging
import traceback
from pathlib import Path
from types import ModuleType


def without_content(package: ModuleType) -> None:
    """Have warnings of this process say, where they are a package's, what went wrong and where, and nothing else."""
    below = str(Path(package.__path__[0]))

    def told(record: logging.LogRecord) -> bool:
        error = record.exc_info[1] if record.exc_info else None
        if record.pathname.startswith(below) and error is not None:
            places = [
                f"{Path(each.filename).name}:{each.lineno}"
                for each in traceback.extract_tb(error.__traceback__)
            ]
            where = f" at {places[-1]}" if places else ""
            record.msg = f"a message could not be handled: {type(error).__name__}{where}"
            record.args, record.exc_info, record.exc_text = (), None, None
        return True

    handler = logging.StreamHandler()
    handler.setLevel(logging.WARNING)
    handler.addFilter(told)
    logging.getLogger().addHandler(handler)
