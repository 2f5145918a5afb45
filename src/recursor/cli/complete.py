"""What a shell completes beside commands and options: models, runs, profiles, sandboxes, keys.

Read from the settings, the store and the shipped lists; only a local model server is asked, and only once its name
is written. What goes wrong completes nothing: a shell shows no errors in the middle of a line.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, ClassVar, TypeAlias

import click
from click.shell_completion import (
    BashComplete,
    CompletionItem,
    FishComplete,
    add_completion_class,
    split_arg_string,
)

MOST_RUNS = 50
Values: TypeAlias = Callable[[click.Context, click.Parameter, str], list[CompletionItem[str]]]

_BASH = """\
%(complete_func)s() {
    local response type value
    response=$(env COMP_LINE="${COMP_LINE:0:COMP_POINT}" COMP_WORDBREAKS="$COMP_WORDBREAKS" \
%(complete_var)s=bash_complete "$1" 2>/dev/null)
    COMPREPLY=()
    while IFS=, read -r type value; do
        case $type in
            dir) compopt -o dirnames ;;
            file) compopt -o default ;;
            plain) COMPREPLY+=("$value") ;;
        esac
    done <<< "$response"
}
complete -o nosort -F %(complete_func)s %(prog_name)s
"""


@add_completion_class
class Bash(BashComplete):
    """Completion for Bash that knows colons: to Bash they part words, and models are called qwen3:8b."""

    name: ClassVar[str] = "bash"
    source_template: ClassVar[str] = _BASH

    def source(self) -> str:
        return self.source_template % self.source_vars()

    def get_completion_args(self) -> tuple[list[str], str]:
        line, self._breaks = _environment("COMP_LINE"), _environment("COMP_WORDBREAKS")
        words = split_arg_string(line)
        self._incomplete = words.pop() if words and not line[-1:].isspace() else ""
        return words[1:], self._incomplete

    def format_completion(self, item: CompletionItem[Any]) -> str:
        kept = max((self._incomplete.rfind(each) + 1 for each in ":=" if each in self._breaks), default=0)
        return f"{item.type},{item.value[kept:]}"


@add_completion_class
class Fish(FishComplete):
    """Completion for fish that keeps what is said of a value whole, commas in it too."""

    source_template: ClassVar[str] = FishComplete.source_template.replace(
        "string split ", "string split -m 1 "
    )


def _environment(name: str) -> str:
    import os  # noqa: PLC0415 - for what the shell says of its line, alone

    return os.environ.get(name, "")


def values(find: Callable[[click.Context, str], Iterable[tuple[str, str]]]) -> Values:
    """Make of a function that yields values and what is said of them one that click takes."""

    def complete(context: click.Context, _: click.Parameter, incomplete: str) -> list[CompletionItem[str]]:
        from recursor.cli.text import clean  # noqa: PLC0415 - as all that follows: for this alone

        try:
            found = [each for each in find(context, incomplete) if each[0].startswith(incomplete)]
        except (Exception, SystemExit):  # noqa: BLE001 - see above
            return []
        return [
            CompletionItem(value, help=clean(said).replace("\n", " ") or None)
            for value, said in dict(found).items()
            if value == clean(value) and not any(each.isspace() for each in value)
        ]

    return complete


def files(_: click.Context, __: click.Parameter, incomplete: str) -> list[CompletionItem[str]]:
    """Any file: for an option that has no type of its own."""
    return [CompletionItem(incomplete, type="file")]


@values
def models(context: click.Context, incomplete: str) -> Iterator[tuple[str, str]]:
    """Those of the settings; else providers, and what is known of the one that is written."""
    from recursor.models.presets import PRESETS  # noqa: PLC0415
    from recursor.models.prices import names  # noqa: PLC0415

    for settings in _settings(context):
        yield from ((spec, f"in the settings: {key}") for spec, key in settings.uses.items())
    provider, slash, _ = incomplete.partition("/")
    preset = PRESETS.get(provider)
    if not slash or preset is None:
        yield from ((f"{name}/", "") for name in PRESETS)
    elif preset.local:
        from recursor.cli import endpoints  # noqa: PLC0415

        found = endpoints.probe(preset)
        yield from ((f"{provider}/{name}", "") for name in (found.models if found else ()))
    else:
        yield from ((f"{provider}/{name}", "") for name in names(preset.price_list))


@values
def runs(context: click.Context, incomplete: str) -> Iterator[tuple[str, str]]:  # noqa: ARG001
    """The latest runs of the store, by the first digits of their ids."""
    from recursor import config  # noqa: PLC0415
    from recursor.cli.text import preview  # noqa: PLC0415
    from recursor.trajectory import view  # noqa: PLC0415

    path = config.load(context.params.get("file"), {"store": context.params.get("store")}).store_path
    with view.open(path) as recorded:
        for run in recorded.runs(MOST_RUNS):
            when = time.strftime("%Y-%m-%d %H:%M", time.localtime(run.started))
            yield run.id[:12], f"{when}  {preview(run.question, 60)}"


@values
def profiles(context: click.Context, incomplete: str) -> Iterator[tuple[str, str]]:  # noqa: ARG001
    from recursor import config  # noqa: PLC0415

    yield from ((name, "") for name in config.load(context.params.get("file")).profiles)


@values
def sandboxes(context: click.Context, incomplete: str) -> Iterator[tuple[str, str]]:  # noqa: ARG001
    from recursor import plugins  # noqa: PLC0415

    yield from ((name, "") for name in plugins.names("recursor.sandboxes"))


@values
def dialects(context: click.Context, incomplete: str) -> Iterator[tuple[str, str]]:  # noqa: ARG001
    yield from ((name, "") for name in ("default", "reference", "paper", "async"))


@values
def strategies(context: click.Context, incomplete: str) -> Iterator[tuple[str, str]]:  # noqa: ARG001
    yield from (("rlm", "in a REPL"), ("direct", "one plain call"), ("auto", "by size"))


@values
def caches(context: click.Context, incomplete: str) -> Iterator[tuple[str, str]]:  # noqa: ARG001
    yield "workspace", "replies that recorded runs paid for"


@values
def providers(context: click.Context, incomplete: str) -> Iterator[tuple[str, str]]:  # noqa: ARG001
    from recursor.models.presets import PRESETS  # noqa: PLC0415

    yield from ((name, "") for name in PRESETS)


@values
def key_names(context: click.Context, incomplete: str) -> Iterator[tuple[str, str]]:  # noqa: ARG001
    from recursor.config import keys  # noqa: PLC0415

    yield from ((name, " or ".join(variables)) for name, variables in keys.KNOWN.items())


@values
def stored_keys(context: click.Context, incomplete: str) -> Iterator[tuple[str, str]]:  # noqa: ARG001
    from recursor import config  # noqa: PLC0415

    yield from ((name, "") for name in config.stored_keys())


@values
def settings(context: click.Context, incomplete: str) -> Iterator[tuple[str, str]]:
    """Keys of the settings, with the models and profiles that the file has."""
    from recursor import config  # noqa: PLC0415
    from recursor.config import tree  # noqa: PLC0415

    every = [".".join(key) for key in tree.every_key()]
    loaded = config.load(context.params.get("file"))
    for key in every:
        if "*" not in key:
            yield key, ""
            yield from (
                (f"profiles.{name}.{key}", "") for name in loaded.profiles if incomplete.startswith("p")
            )
        else:
            yield from ((key.replace("*", spec), "") for spec in loaded.settings.uses)


def _settings(context: click.Context) -> Iterator[Any]:
    from recursor import config  # noqa: PLC0415

    file = context.params.get("file")
    loaded = config.load(file)
    yield loaded.settings
    yield from (config.load(file, profile=name).settings for name in loaded.profiles)
