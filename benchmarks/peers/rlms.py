"""The reference implementation, `rlms`, as `harness` asks it: local environment, no isolation."""

from __future__ import annotations

import harness
from rlm import RLM  # type: ignore[import-not-found]
from rlm.logger import RLMLogger  # type: ignore[import-not-found]


def make(options: harness.Options) -> harness.Ask:
    """With its defaults; `record` is its logger's folder."""
    backend = {"model_name": "bench", "base_url": options.url, "api_key": "none"}
    logger = RLMLogger(log_dir=options.record) if options.record else None
    rlm = RLM(backend="openai", backend_kwargs=backend, logger=logger, max_depth=options.depth)
    return lambda question, context: rlm.completion(context or "", root_prompt=question).response


if __name__ == "__main__":
    harness.main(make)
