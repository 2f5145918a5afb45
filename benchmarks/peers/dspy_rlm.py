"""`dspy.RLM`, as `harness` asks it: no cache, no retries, no bound on sub-calls.

The variant "local" takes dspy's LocalInterpreter, a subprocess without isolation, in place of its
default, Pyodide in Deno. `--probe` says whether the default works here.
"""

from __future__ import annotations

import json
import sys

import dspy  # type: ignore[import-not-found]
import harness


def make(options: harness.Options) -> harness.Ask:
    dspy.configure(
        lm=dspy.LM("openai/bench", api_base=options.url, api_key="none", cache=False, num_retries=0)
    )
    interpreter = dspy.LocalInterpreter if options.variant == "local" else dspy.PythonInterpreter
    rlm = dspy.RLM("context, question -> answer", max_llm_calls=10**9, interpreter_factory=interpreter)
    return lambda question, context: rlm(context=context or "", question=question).answer


def probe() -> str:
    """Return why the default interpreter does not run; nothing when it does."""
    try:
        dspy.PythonInterpreter()("print(1)")
    except Exception as error:
        return str(error)
    return ""


if __name__ == "__main__":
    if sys.argv[1:] == ["--probe"]:
        print(json.dumps({"why": probe()}))
    else:
        harness.main(make)
