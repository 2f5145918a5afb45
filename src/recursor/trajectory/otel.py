"""Runs as OpenTelemetry spans, while they go or afterwards. Needs the extra `otel`.

Each tree of runs is a trace of its own. Ids are digests of what they are of, so a run that is exported again has the
same. Names follow the semantic conventions for generative AI:

    invoke_agent recursor     a run
      chat MODEL              a reply of its root LM, or a summary of old turns
      execute_tool python     a block, in it
        chat MODEL            its plain sub-calls
        execute_tool NAME     its calls of tools of the host
        invoke_agent recursor its child runs

Texts (questions, prompts, replies, code, arguments, messages of errors) leave only when content is asked for.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from recursor.errors import ConfigError, TrajectoryError
from recursor.threads import in_thread
from recursor.trajectory.packing import dumps
from recursor.trajectory.view import Trajectories
from recursor.types import (
    BlockExecuted,
    CallRetried,
    Event,
    Message,
    ModelCalled,
    RunEnded,
    RunStarted,
    ToolCalled,
)

try:
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import ReadableSpan
    from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
    from opentelemetry.sdk.util.instrumentation import InstrumentationScope
    from opentelemetry.trace import SpanContext, SpanKind, TraceFlags
    from opentelemetry.trace.status import Status, StatusCode
except ImportError as error:  # pragma: no cover - with the extra it is there
    raise ConfigError(f"OpenTelemetry is not installed: pip install 'recursor[otel]' ({error})") from error

TOGETHER = 500
"""Spans that are sent at once, of a recorded run."""
PROVIDERS = {
    "gemini": "gcp.gemini",
    "google": "gcp.gemini",
    "azure": "azure.ai.openai",
    "bedrock": "aws.bedrock",
}
"""Prefixes of models -> names in the conventions, where those differ."""


class OtelSink:
    """A sink that sends spans while runs go; nothing waits for that. All are sent at the end of a root run.

    Args:
        exporter: where to; None is OTLP over HTTP, to where OTEL_EXPORTER_OTLP_ENDPOINT says, else localhost:4318.
        content: whether texts are sent.
        service: the name of the service in the resource.
    """

    def __init__(
        self, exporter: SpanExporter | None = None, *, content: bool = False, service: str = "recursor"
    ) -> None:
        self._processor = BatchSpanProcessor(exporter or OTLPSpanExporter())
        self._spans = _Spans(content, service)
        self._ended = False

    def emit(self, event: Event) -> None:
        """Send what has ended. Never fails: what cannot be sent is told by OpenTelemetry's own log."""
        for span in self._spans.of(event):
            self._processor.on_end(span)
        self._ended = self._ended or (isinstance(event, RunEnded) and not self._spans.open)

    async def flush(self) -> None:
        """Wait until spans are sent, when root runs have ended; spans of a run that goes make nobody wait."""
        if self._ended:
            self._ended = False
            await in_thread(self._processor.force_flush)

    def close(self) -> None:
        """Send what is left, and free the exporter."""
        self._processor.shutdown()


def export(
    trajectories: Trajectories,
    run_id: str,
    exporter: SpanExporter | None = None,
    *,
    endpoint: str | None = None,
    content: bool = False,
    service: str = "recursor",
) -> int:
    """Send a recorded run and its children. Return how many spans they are.

    Args:
        exporter: where to; None is OTLP over HTTP.
        endpoint: the whole address for that, http://localhost:4318/v1/traces without it.

    Raises:
        TrajectoryError: there is no such run, or the collector did not take it.
    """
    exporter = exporter or OTLPSpanExporter(endpoint=endpoint)
    spans = _Spans(content, service)
    waiting: list[ReadableSpan] = []
    total = 0
    try:
        for event in trajectories.each_event(trajectories.run(run_id).id):
            waiting += spans.of(event)
            if len(waiting) >= TOGETHER:
                total += _send(exporter, waiting)
                waiting = []
        waiting += spans.unfinished()
        return total + _send(exporter, waiting)
    finally:
        exporter.shutdown()


def _send(exporter: SpanExporter, spans: Sequence[ReadableSpan]) -> int:
    if spans and exporter.export(spans) is not SpanExportResult.SUCCESS:
        raise TrajectoryError("the collector did not take the spans: see the log of OpenTelemetry")
    return len(spans)


class _Spans:
    """Events -> spans that have ended. Remembers runs that go."""

    def __init__(self, content: bool, service: str) -> None:
        self._content = content
        self._resource = Resource.create({"service.name": service})
        self._scope = InstrumentationScope("recursor")
        self._runs: dict[str, RunStarted] = {}
        self._roots: dict[str, str] = {}
        self._attempts: dict[str, int] = {}
        self._last = 0.0

    @property
    def open(self) -> int:
        """Runs that go."""
        return len(self._runs)

    def of(self, event: Event) -> Iterator[ReadableSpan]:
        match event:
            case RunStarted():
                self._runs[event.run_id] = event
                self._roots[event.run_id] = self._roots.get(event.parent_id or "", event.run_id)
            case CallRetried():
                self._attempts[event.call_id] = event.attempt
            case _ if event.run_id not in self._runs:
                return  # its start was not seen
            case ModelCalled():
                yield self._called(event)
            case ToolCalled():
                yield self._used(event)
            case BlockExecuted():
                yield self._executed(event)
            case RunEnded():
                yield self._ended(self._runs.pop(event.run_id), event)
                if not self._runs:
                    self._roots.clear()

    def unfinished(self) -> Iterator[ReadableSpan]:
        """The runs that have no end in the record, up to the last that is known of them."""
        for started in list(self._runs.values()):
            yield self._ended(
                started, RunEnded(started.run_id, None, "unfinished", max(self._last, started.time))
            )
        self._runs.clear()

    def _called(self, event: ModelCalled) -> ReadableSpan:
        provider, _, model = event.model.rpartition("/")
        prefix = provider.partition("/")[0]
        about: dict[str, Any] = {
            "gen_ai.operation.name": "chat",
            "gen_ai.provider.name": PROVIDERS.get(prefix, prefix) or "custom",
            "gen_ai.request.model": model,
            "recursor.purpose": event.purpose,
            "recursor.turn": event.turn,
        }
        if attempts := self._attempts.pop(event.call_id, 0):
            about["recursor.attempts"] = attempts + 1
        reply = event.reply
        if reply is not None:
            usage = reply.usage
            about |= {
                "gen_ai.response.model": reply.model,
                "gen_ai.response.id": str(reply.raw["id"]) if reply.raw and "id" in reply.raw else None,
                "gen_ai.response.finish_reasons": [reply.finish_reason] if reply.finish_reason else None,
                "gen_ai.usage.input_tokens": usage.input_tokens,
                "gen_ai.usage.output_tokens": usage.output_tokens,
                "gen_ai.usage.cache_read.input_tokens": usage.cached_tokens,
                "gen_ai.usage.cache_creation.input_tokens": usage.cache_write_tokens,
                "gen_ai.usage.reasoning.output_tokens": usage.reasoning_tokens,
                "recursor.cost": reply.cost,
                "recursor.cached": reply.cached or None,
            }
        if self._content:
            about |= _prompt(event.messages)
            if reply is not None:
                said = {
                    "role": "assistant",
                    **_parts(reply.text),
                    "finish_reason": reply.finish_reason or "stop",
                }
                about["gen_ai.output.messages"] = _json([said])
        if event.error is not None:
            about["error.type"] = "cancelled" if event.cut else "model_error"
        span = (event.time, event.time + event.duration)
        inside = self._inside(event.run_id, event.turn, event.block)
        return self._span(
            f"chat {model}", event.run_id, event.call_id, inside, span=span, about=about, error=event.error,
            kind=SpanKind.CLIENT,
        )  # fmt: skip

    def _used(self, event: ToolCalled) -> ReadableSpan:
        about: dict[str, Any] = {
            "gen_ai.operation.name": "execute_tool", "gen_ai.tool.name": event.name, "gen_ai.tool.type": "function",
            "gen_ai.tool.call.id": event.call_id, "recursor.turn": event.turn,
            "error.type": None if event.error is None else "tool_error",
        }  # fmt: skip
        if self._content:
            about["gen_ai.tool.call.arguments"] = _json({"args": event.args, "kwargs": event.kwargs})
            about["gen_ai.tool.call.result"] = _json(event.result)
        span = (event.time, event.time + event.duration)
        inside = self._inside(event.run_id, event.turn, event.block)
        return self._span(
            f"execute_tool {event.name}", event.run_id, event.call_id, inside, span=span, about=about,
            error=event.error,
        )  # fmt: skip

    def _executed(self, event: BlockExecuted) -> ReadableSpan:
        execution = event.execution
        began = execution.started or self._last
        about: dict[str, Any] = {
            "gen_ai.operation.name": "execute_tool", "gen_ai.tool.name": "python", "gen_ai.tool.type": "extension",
            "recursor.turn": event.turn, "recursor.block": event.block,
            "error.type": None if execution.error is None else "code_error",
        }  # fmt: skip
        if self._content:
            about["gen_ai.tool.call.arguments"] = _json({"code": execution.code})
            about["gen_ai.tool.call.result"] = execution.output.head + execution.output.tail
        return self._span(
            "execute_tool python", event.run_id, _place(event.run_id, event.turn, event.block), event.run_id,
            span=(began, began + execution.duration), about=about, error=execution.error,
        )  # fmt: skip

    def _ended(self, started: RunStarted, ended: RunEnded) -> ReadableSpan:
        done = ended.completion
        about: dict[str, Any] = {
            "gen_ai.operation.name": "invoke_agent", "gen_ai.agent.name": "recursor", "gen_ai.agent.id": started.run_id,
            "gen_ai.conversation.id": self._roots[started.run_id], "gen_ai.provider.name": "recursor",
            "gen_ai.request.model": started.model, "recursor.depth": started.depth,
            "recursor.strategy": started.strategy,
        }  # fmt: skip
        if done is not None:
            about |= {
                "gen_ai.usage.input_tokens": done.usage.input_tokens,
                "gen_ai.usage.output_tokens": done.usage.output_tokens,
                "recursor.stop_reason": str(done.stop_reason), "recursor.turns": done.turns,
                "recursor.calls": done.usage.calls, "recursor.cost": done.cost,
            }  # fmt: skip
        if ended.error is not None:
            about["error.type"] = ended.error.partition(":")[0]
        if self._content:
            about["gen_ai.input.messages"] = _json([{"role": "user", **_parts(started.question)}])
            if done is not None:
                answer = done.answer if isinstance(done.answer, str) else dumps(done.answer)
                said = {"role": "assistant", **_parts(answer), "finish_reason": "stop"}
                about["gen_ai.output.messages"] = _json([said])
        parent = started.parent_id and self._inside(started.parent_id, started.turn, started.block)
        span = (started.time, max(started.time, ended.time))
        return self._span(
            "invoke_agent recursor", started.run_id, started.run_id, parent, span=span, about=about, error=ended.error
        )  # fmt: skip

    def _inside(self, run_id: str, turn: int, block: int) -> str:
        """What the span of something that a block asked for is in: the block; without one the run."""
        return _place(run_id, turn, block) if block else run_id

    def _span(
        self, name: str, run_id: str, key: str, inside: str | None, *, span: tuple[float, float],
        about: Mapping[str, Any], error: str | None, kind: SpanKind = SpanKind.INTERNAL,
    ) -> ReadableSpan:  # fmt: skip
        trace = int.from_bytes(hashlib.blake2b(self._roots[run_id].encode(), digest_size=16).digest())
        start, end = (int(second * 1e9) for second in span)
        self._last = max(self._last, span[1])
        status = Status(StatusCode.UNSET)
        if error is not None:
            status = Status(StatusCode.ERROR, error if self._content else None)
        return ReadableSpan(
            name,
            _context(trace, key),
            None if inside is None else _context(trace, inside),
            self._resource,
            {name: value for name, value in about.items() if value is not None},
            kind=kind,
            status=status,
            start_time=start,
            end_time=max(start, end),
            instrumentation_scope=self._scope,
        )


def _context(trace: int, key: str) -> SpanContext:
    span = int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest()) or 1
    return SpanContext(trace or 1, span, is_remote=False, trace_flags=TraceFlags(TraceFlags.SAMPLED))


def _place(run_id: str, turn: int, block: int) -> str:
    return f"{run_id} {turn}.{block}"


def _parts(text: str) -> dict[str, Any]:
    return {"parts": [{"type": "text", "content": text}]}


def _prompt(messages: Sequence[Message]) -> dict[str, str]:
    """Prompts as the conventions have them: instructions apart."""
    system = [part for each in messages if each.role == "system" for part in _parts(each.content)["parts"]]
    rest = [{"role": each.role, **_parts(each.content)} for each in messages if each.role != "system"]
    found = {"gen_ai.input.messages": _json(rest)}
    return {**found, "gen_ai.system_instructions": _json(system)} if system else found


def _json(value: Any) -> str:
    return json.dumps(json.loads(dumps(value)))
