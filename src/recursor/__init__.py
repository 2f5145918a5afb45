"""Recursive Language Models: answer questions over inputs of any length.

>>> from recursor import RLM
>>> RLM("openai/gpt-5").completion("Who is mentioned most?", context=Path("books/")).answer
"""

from __future__ import annotations

import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

if sys.platform == "win32":
    raise ImportError(
        "recursor runs on Linux, and on macOS with less isolation; Windows lacks what it is made of. On Windows, "
        "install it in WSL 2, where everything works, or in a Linux container or virtual machine."
    )

if TYPE_CHECKING:
    from recursor.errors import ConfigError, ModelError, RLMError, SandboxError, SubcallError
    from recursor.limits import Limits
    from recursor.lm import LM
    from recursor.models.retry import Retries
    from recursor.policy import Policy
    from recursor.questions import Question
    from recursor.rlm import RLM
    from recursor.routing import Route, Routes
    from recursor.sessions.session import Session
    from recursor.tools import CodeTool, tool
    from recursor.types import Completion, StopReason

__all__ = [
    "LM",
    "RLM",
    "CodeTool",
    "Completion",
    "ConfigError",
    "Limits",
    "ModelError",
    "Policy",
    "Question",
    "RLMError",
    "Retries",
    "Route",
    "Routes",
    "SandboxError",
    "Session",
    "StopReason",
    "SubcallError",
    "tool",
]

_HOMES = {
    "LM": "lm",
    "RLM": "rlm",
    "Limits": "limits",
    "Policy": "policy",
    "Question": "questions",
    "Retries": "models.retry",
    "Route": "routing",
    "Routes": "routing",
    "Session": "sessions.session",
    "CodeTool": "tools",
    "tool": "tools",
    "Completion": "types",
    "StopReason": "types",
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used: `recursor --help` must not wait for the engine."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOMES.get(name, 'errors')}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
