"""The RLM that the settings describe."""

from __future__ import annotations

import os

import click

from recursor import config
from recursor.cli import described, endpoints, options
from recursor.cli.servers import servers_of
from recursor.cli.text import clean
from recursor.errors import ConfigError
from recursor.protocols import Sink
from recursor.rlm import RLM

NO_MODEL = """no model was named and none was found on this machine
  name one:          recursor ask --model openai/gpt-5 "..."   (needs OPENAI_API_KEY)
  or make it stay:   model = "openai/gpt-5" in {file}
  or run one here:   ollama serve, LM Studio, llama.cpp or vLLM on its usual port is found by itself
  or look without:   recursor demo"""


def make_rlm(loaded: config.Config, output: options.Output) -> RLM:
    """Return what the settings describe; looks for a model when they name none."""
    settings = loaded.settings
    routed = bool(settings.routes) and loaded.origins["model"] != "--model"
    root = "" if routed else settings.model or _found(settings.base_url, output.quiet)
    sub = settings.sub_model
    return RLM(
        described.routes_of(settings, quiet=output.quiet)
        if routed
        else described.model_of(root, settings, quiet=output.quiet),
        sub_model=None if routed or sub is None else described.model_of(sub, settings, quiet=output.quiet),
        base_url=settings.base_url,
        sandbox=settings.sandbox,
        dialect=settings.dialect,
        strategy=settings.strategy,
        cache=settings.cache,
        limits=settings.limits,
        tools=servers_of(settings) if settings.mcp else (),
        store=options.store_path(loaded) if settings.record else None,
        sinks=_sinks(output.jsonl),
    )


def _found(base_url: str | None, quiet: bool) -> str:
    """Look for a model when none was named, and say which it is."""
    if base_url:
        raise ConfigError("--base-url needs --model: what the endpoint calls it")
    choice = endpoints.choose()
    if choice is None:
        raise ConfigError(NO_MODEL.format(file=config.config_file()))
    if not quiet:
        click.echo(f"using {clean(choice.model)}: {clean(choice.reason)}", err=True)
    return choice.model


def _sinks(jsonl: str | None) -> list[Sink]:
    if jsonl is None:
        return []
    from recursor.trajectory.jsonl import JsonlSink  # noqa: PLC0415 - only with --jsonl

    try:
        target = os.dup(1) if jsonl == "-" else jsonl
        file = open(target, "w", encoding="utf-8")  # noqa: SIM115, PTH123 - the sink's; Path takes no descriptor
    except OSError as error:
        raise ConfigError(f"cannot write {jsonl}: {error.strerror}") from error
    return [JsonlSink(file)]
