"""What to do about an error that a limit of the REPL made: the model reads it below the traceback."""

from __future__ import annotations

import errno
import os
import resource
from types import TracebackType

_NETWORK = {"socket.py", "ssl.py", "connection.py"}
_PROCESSES = {"subprocess.py", "popen_fork.py", "popen_spawn_posix.py", "process.py"}


def hint(error: BaseException) -> str:
    """Say what an error means here and what would help; nothing where it is an error as any other."""
    said = _about(error)
    return f"\n({said})" if said else ""


def _about(error: BaseException) -> str:
    if isinstance(error, SystemExit):
        return "exiting does not end the REPL: to submit an answer use FINAL(value)"
    if isinstance(error, MemoryError):
        return "the memory of the REPL is full: `del` what you no longer need, and work on smaller parts"
    if isinstance(error, RuntimeError) and "can't start new thread" in str(error):
        return (
            "there are no more threads, or no memory for one: use fewer; "
            "llm_query_batched asks many at once without any"
        )
    if isinstance(error, OSError):
        return _about_the_system(error)
    return ""


def _about_the_system(error: OSError) -> str:
    inner = getattr(error, "reason", None)  # urllib wraps what failed
    failed = inner if isinstance(inner, OSError) else error
    scratch = os.environ.get("TMPDIR", "/tmp")  # noqa: S108 - the place's own
    match failed.errno:
        case errno.ENOSPC:
            return f"{scratch} is full{_size(scratch)}: remove files that you no longer need"
        case errno.EFBIG:
            most = resource.getrlimit(resource.RLIMIT_FSIZE)[0]
            return f"a file may have {most:,} bytes at most: write less, or keep the data in variables"
        case errno.EMFILE:
            most = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
            return f"at most {most:,} files may be open at once: close them, `with open(...) as file:`"
    return _about_what_is_refused(failed, scratch)


def _about_what_is_refused(error: OSError, scratch: str) -> str:
    files = {os.path.basename(name) for name in _files(error.__traceback__)}
    if type(error).__name__ == "gaierror" or (error.errno == errno.EPERM and files & _NETWORK):
        return "there is no network here: work on the data that was given, and ask models by llm_query"
    if error.errno == errno.EPERM and files & _PROCESSES:
        return "no processes can be started here: use threads, or Python's own modules"
    if error.errno in (errno.EACCES, errno.EROFS) or "usable temporary directory" in str(error):
        there = os.path.isdir(scratch)
        where = f"{scratch} is for files of yours" if there else "none can be written: keep data in variables"
        return f"most files may be neither read nor written here; {where}"
    return ""


def _size(folder: str) -> str:
    try:
        found = os.statvfs(folder)
    except OSError:
        return ""
    return f" ({found.f_blocks * found.f_frsize:,} bytes in at most {found.f_files:,} files)"


def _files(traceback: TracebackType | None) -> list[str]:
    found = []
    while traceback is not None:
        found.append(traceback.tb_frame.f_code.co_filename)
        traceback = traceback.tb_next
    return found
