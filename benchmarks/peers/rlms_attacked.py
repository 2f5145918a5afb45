"""The local REPL of `rlms`, served over stdin and stdout: one JSON line of code in, one of results out.

Its caller is this process: when code ends or stops it, it would have ended or stopped the program that
uses the library. Processes and computing time are bounded, for the sake of the machine.
"""

from __future__ import annotations

import json
import os
import resource
import sys

from rlm.environments.local_repl import LocalREPL  # type: ignore[import-not-found]


def main() -> None:
    """Serve until stdin ends."""
    for kind, most in ((resource.RLIMIT_CPU, 60), (resource.RLIMIT_NPROC, 400), (resource.RLIMIT_CORE, 0)):
        resource.setrlimit(kind, (most, most))
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what code writes there is no answer
    repl = LocalREPL()
    for line in sys.stdin:
        done = repl.execute_code(json.loads(line))
        answers.write(json.dumps([done.stdout, done.stderr]) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
