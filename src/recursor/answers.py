"""One question to an `RLM`: answered in a new run, or in one that is recorded and goes on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from secrets import token_hex
from typing import TYPE_CHECKING, Any

from recursor import assembly
from recursor.asker import Asker
from recursor.errors import ConfigError
from recursor.governance import ask_about_hosts
from recursor.inputs import inputs, recorded_inputs
from recursor.ledger import Ledger
from recursor.limits import Limits
from recursor.protocols import Sink
from recursor.replay import Past
from recursor.run import Place
from recursor.schema import Shape, shape
from recursor.sinks import QueueSink
from recursor.threads import in_thread
from recursor.tools import check_code
from recursor.types import Completion, RunEnded, StopReason

if TYPE_CHECKING:
    from recursor.trajectory.journal import StoreJournal
    from recursor.trajectory.view import RecordedRun


async def complete(
    asker: Asker,
    question: Any,
    context: Any,
    messages: Any,
    schema: Any,
    *,
    watcher: QueueSink | None = None,
    at: Place | None = None,
) -> Completion:
    """Answer a question, as `RLM.completion` says.

    Args:
        watcher: sees what happens, piece by piece.
        at: the place of the run; None makes one.
    """
    expected = shape(schema)
    ask_about_hosts(asker.engine.policy)
    text, contexts = await in_thread(inputs, question, context, messages, asker.values)
    place = at or Place(token_hex(16))
    task = asker.task(text, contexts, expected)
    done = await asker.attended(place.run_id, lambda: asker.watched(watcher).complete(task, place))
    return await asker.covered(done, contexts)


async def resume(
    asker: Asker,
    run_id: str,
    context: Any,
    messages: Any,
    schema: Any,
    *,
    watcher: QueueSink | None = None,
    ledger: Ledger | None = None,
) -> Completion:
    """Go on with a run, as `RLM.resume` says.

    Args:
        watcher: sees what happens, piece by piece.
        ledger: of the run; None makes one.
    """
    from recursor.trajectory.journal import StoreJournal  # noqa: PLC0415 - imports sqlite3

    engine = asker.engine
    if asker.store is None:
        raise ConfigError("resume needs the store that recorded the run: RLM(..., store=path)")
    journal = await in_thread(StoreJournal, asker.store, discard=StoreJournal.close)
    try:
        run = await in_thread(journal.root, run_id)
        assembly.check_models(engine.routes, run.model, run.sub_model)
        expected = shape(run.settings.get("schema") if schema is None else schema)
        if (done := answered(journal, run, expected, watcher)) is not None:
            return done

        if run.session is not None:
            session, turn = run.session
            raise ConfigError(
                f"run {run.id} is turn {turn} of session {session!r}: session({session!r}).resume() goes on with "
                "the last one"
            )

        async def go_on() -> Completion:
            check_code(run.settings.get("code_tools", {}), engine.tools)
            ask_about_hosts(engine.policy)
            text, contexts = await in_thread(recorded_inputs, run, context, messages, asker.values)
            task = asker.task(text, contexts, expected)
            raised = engine.limits.raised(run.settings.get("limits", {}))
            raised |= _raised_for_all(engine.settings, run.settings)
            past = await in_thread(Past, journal, run.id, raised)
            done = await asker.watched(watcher).complete(task, Place(run.id, past=past, ledger=ledger))
            return await asker.covered(done, contexts)

        return await asker.attended(run.id, go_on)
    finally:
        journal.close()


def answered(
    journal: StoreJournal, run: RecordedRun, expected: Shape, watcher: Sink | None
) -> Completion | None:
    """What a recorded run answered, told to who watches; None where it did not answer."""
    done = journal.ended(run.id)
    if not isinstance(done, Completion) or done.stop_reason is not StopReason.ANSWERED:
        return None
    done = replace(done, answer=expected.accept(done.answer))
    if watcher is not None:
        watcher.emit(run.start())
        watcher.emit(RunEnded(run.id, done, None, run.ended or 0.0))
    return done


def _raised_for_all(settings: Mapping[str, Any], before: Mapping[str, Any]) -> frozenset[str]:
    """Bounds of a whole batch that are larger now, by their stop reasons; see `questions.settings_of`."""
    now, was = settings.get("batch"), before.get("batch")
    if now is None or not isinstance(was, Mapping):
        return frozenset()
    return Limits(**now["total"]).raised(was.get("total", {}))
