"""`recursor runs coverage` and `recursor runs evidence`: what a run read, and what its answer stands in."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from heapq import nlargest
from pathlib import Path
from typing import Any, TypeVar

import click

from recursor import config
from recursor.cli import complete, options
from recursor.cli.text import clean, count, preview, to_json
from recursor.coverage import Coverage, Document, DocumentCoverage, Evidence, Part, cover
from recursor.errors import RLMError
from recursor.trajectory import view
from recursor.types import Completion

SHOWN_DOCUMENTS = 20
SHOWN_UNREAD = 5
SHOWN_PARTS = 40
WIDEST = 60
"""Characters of a strip."""
LEVELS = "▁▂▃▄▅▆▇█"
NONE = "·"
STRIP = 100
"""Buckets of a document in the JSON of `recursor ask`."""
EVIDENCE = click.option(
    "--evidence", is_flag=True, help="With --json: where the answer stands, and what was read."
)
F = TypeVar("F", bound=Callable[..., Any])


def _of_run(function: F) -> F:
    """Add what both commands take."""
    context = click.option(
        "--context", "paths", multiple=True, metavar="PATH|-", help="What RUN was given, where it is not there now."
    )  # fmt: skip
    for part in (
        options.FILE,
        options.STORE,
        context,
        click.argument("run_id", metavar="RUN", shell_complete=complete.runs),
    ):
        function = part(function)
    return function


@click.command("coverage", short_help="Show which parts of its context a run read.")
@_of_run
@click.option("--all", "every", is_flag=True, help="Every document.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object, with all spans.")
@click.option(
    "--strip", type=click.IntRange(1), metavar="N", help="With --json: N buckets in place of spans."
)
def command(
    run_id: str,
    *,
    paths: tuple[str, ...],
    store: str | None,
    file: Path | None,
    every: bool,
    as_json: bool,
    strip: int | None,
) -> None:
    """Show which parts of its context RUN read, and which nobody did.

    Read is what stood in the prompt of a sub-call, or in output that a root LM
    was shown, of RUN or any run below it.
    """
    from recursor import review  # noqa: PLC0415 - imports sources and sandboxes

    context = _context(paths)
    with view.open(_path(store, file)) as recorded:
        run = recorded.run(run_id)
        documents = review.given(recorded, run, context)
        found = cover(documents, review.readings(recorded, run.id))
    if as_json:
        click.echo(to_json({"run_id": run.id, "share": found.share} | found.to_json(strip)))
        return
    for line in _pictured(found, documents, len(documents) if every else SHOWN_DOCUMENTS):
        click.echo(line)


@click.command("evidence", short_help="Show where an answer came from.")
@_of_run
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def evidence(
    run_id: str, paths: tuple[str, ...], store: str | None, file: Path | None, as_json: bool
) -> None:
    """Show in which replies, outputs and parts of the context the answer of RUN stands."""
    from recursor import review  # noqa: PLC0415 - imports sources and sandboxes

    context = _context(paths)
    with view.open(_path(store, file)) as recorded:
        run = recorded.run(run_id)
        found = review.evidence(recorded, run.id, context)
    if as_json:
        click.echo(to_json({"run_id": run.id} | found.to_json()))
        return
    for line in _traced(found):
        click.echo(line)


def told(
    settings: config.Config, output: options.Output, context: Any
) -> Callable[[Completion], dict[str, Any]]:
    """Return what makes the evidence for the JSON of a run that has just ended over a context."""
    if not output.as_json:
        raise click.UsageError("--evidence is part of --json; afterwards there is `recursor runs evidence`")
    if not settings.settings.record:
        raise click.UsageError("--evidence comes from the store, and the run is not recorded")

    def tell(done: Completion) -> dict[str, Any]:
        from recursor import review  # noqa: PLC0415 - imports sources and sandboxes

        try:
            found = review.evidence(settings.store_path, done.run_id, context)
        except (RLMError, OSError) as error:  # the answer is paid for, and printed all the same
            return {"coverage": None, "evidence": {"unknown": str(error), "items": [], "reads": {}}}
        covered = found.coverage and {"share": found.coverage.share} | found.coverage.to_json(STRIP)
        return {"coverage": covered, "evidence": found.to_json()}

    return tell


def _context(paths: tuple[str, ...]) -> Any:
    """What the user says that the run was given; None when nothing."""
    from recursor.cli import contexts  # noqa: PLC0415 - imports what reads files

    contexts.check(paths)
    return contexts.read(paths)


def _path(store: str | None, file: Path | None) -> Path:
    return options.in_force(file, {"store": store}).store_path


def _pictured(found: Coverage, documents: Sequence[Document], most: int) -> Iterator[str]:
    kinds = [reader.kind for reader in found.readers]
    by = [
        (kinds.count("sub-call"), "sub-call"),
        (len(kinds) - kinds.count("sub-call"), "prompt of a root LM"),
    ]
    readers = " and ".join(
        count(number, noun, "prompts of root LMs" if noun.startswith("prompt") else "")
        for number, noun in by
        if number
    )
    yield (
        f"{_percent(found.read, found.length)} of {count(found.length, 'character')} "
        f"in {count(len(found.documents), 'document')} read by {readers or 'no call'}"
    )
    if found.ambiguous:
        yield f"of that, {count(found.ambiguous, 'character')} of passages that stand at several places"
    if found.common:
        yield f"not counted: {count(found.common, 'character')} of prompts that stand nearly everywhere"
    shown = found.documents[:most]
    names = min(40, max((len(_name(each)) for each in shown), default=0))
    width = max(10, min(WIDEST, shutil.get_terminal_size().columns - names - 26))
    yield ""
    for each in shown:
        strip = (
            "".join(_level(bucket.read, bucket.length) for bucket in each.strip(width)) if each.known else ""
        )
        share = _percent(each.read, each.length) if each.known else "unknown"
        yield f"{preview(_name(each), names):<{names}}  {each.length:>13,}  {share:>7}  {strip}"
    yield from _rest(found.documents[most:])
    yield from _unread(found, documents)


def _rest(documents: Sequence[DocumentCoverage]) -> Iterator[str]:
    if not documents:
        return
    known = [each for each in documents if each.known]
    whole = sum(each.read == each.length for each in known)
    none = sum(not each.read and bool(each.length) for each in known)
    said = [(whole, "whole"), (len(known) - whole - none, "in part"), (none, "not at all")]
    read = ", ".join(f"{number:,} read {how}" for number, how in said if number)
    yield f"… {count(len(documents), 'more document')}: {read or 'unknown'} (--all shows them)"


def _unread(found: Coverage, documents: Sequence[Document]) -> Iterator[str]:
    gaps = (
        (end - start, -number, start)
        for number, each in enumerate(found.documents)
        for start, end in each.unread_ranges()
    )
    longest = nlargest(SHOWN_UNREAD, gaps)
    if longest:
        yield "\nlongest parts that nobody read"
    for length, number, start in longest:
        text = documents[-number].text or ""
        begins = preview(text[start : start + min(length, 400)], 60)
        place = f"{preview(_name(found.documents[-number]), 40)}[{start:,}:{start + length:,}]"
        yield f"  {length:>13,}  {place}  {begins}"


def _name(document: DocumentCoverage) -> str:
    return clean(document.name)


def _percent(part: int, whole: int) -> str:
    """Never 0 % of something, nor 100 % of less than all."""
    if not part or part == whole:
        return "0 %" if not part and whole else "100 %"
    return f"{min(99.9, max(0.1, 100 * part / whole)):.1f} %"


def _level(read: int, length: int) -> str:
    return NONE if not read else LEVELS[min(len(LEVELS) - 1, len(LEVELS) * read // max(1, length))]


def _traced(found: Evidence) -> Iterator[str]:
    if found.unknown:
        yield f"the context is not at hand: {clean(found.unknown)}\n"
    for item in found.items:
        if item.text is None:
            yield f"{clean(item.path)}  not a text: unknown"
            continue
        known = f"{len(item.text):,} characters" + ("" if item.parts else ": unknown")
        yield f"{clean(item.path)}  {known}"
        for part in item.parts[:SHOWN_PARTS]:
            yield f"  [{part.start:,}:{part.end:,}]  {preview(item.text[part.start : part.end], 60)}"
            yield from _stands(part, found.reads)
        if len(item.parts) > SHOWN_PARTS:
            yield f"  … {count(len(item.parts) - SHOWN_PARTS, 'more part')} (--json shows all)"


def _stands(part: Part, reads: Mapping[str, Any]) -> Iterator[str]:
    for each in part.found[:3]:
        where = each.where[:12] if each.origin in ("reply", "child", "tool") else preview(each.where, 40)
        yield f"    in {each.origin} {where}[{each.start:,}:{each.end:,}]"
        for name, span in reads.get(each.where, ())[:3]:
            unsure = ", or elsewhere" if span.ambiguous else ""
            yield f"      which read {preview(name, 40)}[{span.start:,}:{span.end:,}]{unsure}"
    if len(part.found) > 3:
        yield f"    and at {count(len(part.found) - 3, 'more place')}"
