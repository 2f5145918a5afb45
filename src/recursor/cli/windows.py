"""What local servers say of their windows: how much of a prompt they take as they run now.

Some of them cut a longer prompt without a word. Asks the addresses of local providers only.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import quote, urlsplit

from recursor.cli.fetch import Unreachable, fetch
from recursor.models.presets import PRESETS

SMALL = 16_384
"""Tokens below which a run has little room."""
LOAD_SECONDS = 120.0
"""That Ollama may take to load a model."""
MOST_TOKENS = 10**9


@dataclass(frozen=True, slots=True)
class Window:
    """Tokens of input and output. None is not known."""

    now: int | None = None
    """What the server takes as it runs now."""
    most: int | None = None
    """What the model was made for."""


REMEDIES: Final[Mapping[str, str]] = {
    "ollama": "OLLAMA_CONTEXT_LENGTH={window} ollama serve, or `PARAMETER num_ctx {window}` in a Modelfile",
    "lmstudio": "lms load {model} --context-length {window}",
    "llamacpp": "llama-server -c {window} (it is divided among the slots of -np)",
    "vllm": "vllm serve ... --max-model-len {window}",
}
"""How each local server is given a larger window."""


def remedy(provider: str, model: str, most: int | None, wanted: int = 32_768) -> str:
    """Return the words that give a server a larger window; empty where it has none, or is not known."""
    if provider not in REMEDIES or (most is not None and most < SMALL):
        return ""
    return REMEDIES[provider].format(window=min(wanted, most or wanted), model=model)


def window_of(spec: str, base_url: str | None = None, *, load: bool = False) -> Window:
    """Return what a local server says of a model's window; nothing for what is no local server, or does not say.

    Args:
        spec: "ollama/qwen3:8b".
        load: whether Ollama is to load the model where it has not: before, it cannot know.
    """
    provider, _, model = spec.partition("/")
    if provider not in _ASKED or not model:
        return Window()
    address = (base_url or PRESETS[provider].base_url or "").rstrip("/")
    try:
        root = urlsplit(address)._replace(path=urlsplit(address).path.removesuffix("/v1"), query="").geturl()
        return _ASKED[provider](root, model, load)
    except (Unreachable, ValueError):
        return Window()


def _ollama(root: str, model: str, load: bool) -> Window:
    shown = _table(_ask(f"{root}/api/show", {"model": model}))
    about = _table(shown.get("model_info"))
    most = next((_tokens(value) for name, value in about.items() if name.endswith(".context_length")), None)
    now = _loaded(root, model)
    if now is None:
        set_to = re.search(r"^num_ctx\s+(\d+)", str(shown.get("parameters") or ""), re.MULTILINE)
        now = _tokens(int(set_to[1])) if set_to else None
    if now is None and load and shown:
        _ask(f"{root}/api/generate", {"model": model}, LOAD_SECONDS)
        now = _loaded(root, model)
    return Window(now, most)


def _loaded(root: str, model: str) -> int | None:
    full = model if ":" in model else f"{model}:latest"
    rows = _table(_ask(f"{root}/api/ps")).get("models")
    for row in map(_table, rows if isinstance(rows, list) else []):
        if full in (row.get("name"), row.get("model")):
            return _tokens(row.get("context_length"))
    return None


def _lmstudio(root: str, model: str, load: bool) -> Window:
    del load  # it does so by itself
    row = _table(_ask(f"{root}/api/v0/models/{quote(model, safe='/')}"))
    return Window(_tokens(row.get("loaded_context_length")), _tokens(row.get("max_context_length")))


def _llamacpp(root: str, model: str, load: bool) -> Window:
    del model, load  # it has one model
    running = _table(_table(_ask(f"{root}/props")).get("default_generation_settings"))
    meta = _table(_row(_ask(f"{root}/v1/models")).get("meta"))
    return Window(_tokens(running.get("n_ctx")), _tokens(meta.get("n_ctx_train")))


def _vllm(root: str, model: str, load: bool) -> Window:
    del load
    tokens = _tokens(_row(_ask(f"{root}/v1/models"), model).get("max_model_len"))
    return Window(tokens, tokens)


_ASKED: Final[Mapping[str, Callable[[str, str, bool], Window]]] = {
    "ollama": _ollama, "lmstudio": _lmstudio, "llamacpp": _llamacpp, "vllm": _vllm,
}  # fmt: skip


def _ask(url: str, body: Mapping[str, Any] | None = None, seconds: float = 5.0) -> Any:
    try:
        return fetch(url, body=body, connect=1.0, reply=seconds)
    except Unreachable as error:
        if error.status is None:
            raise
        return None  # it is another server, or an older one


def _row(listing: Any, model: str | None = None) -> dict[str, Any]:
    rows = _table(listing).get("data")
    for row in map(_table, rows if isinstance(rows, list) else []):
        if model is None or row.get("id") == model:
            return row
    return {}


def _table(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _tokens(value: Any) -> int | None:
    right = isinstance(value, int) and not isinstance(value, bool) and 0 < value <= MOST_TOKENS
    return value if right else None
