"""recursor, as `harness` asks it."""

from __future__ import annotations

from pathlib import Path

import harness

from recursor import RLM, Limits


def make(options: harness.Options) -> harness.Ask:
    """With the default sandbox, unless the variant names another; `record` is where its store lies."""
    store = Path(options.record, "runs.db") if options.record else None
    sandbox, limits = options.variant or "process", Limits(max_depth=options.depth)
    if options.instant:
        import script  # noqa: PLC0415 - the other runs must not load what it loads

        from recursor.testing import ScriptedModel  # noqa: PLC0415

        rlm = RLM(ScriptedModel(script.reply), sandbox=sandbox, store=store, limits=limits)
    else:
        rlm = RLM("bench", base_url=options.url, api_key="none", sandbox=sandbox, store=store, limits=limits)
    return lambda question, context: rlm.completion(question, context).answer


if __name__ == "__main__":
    harness.main(make)
