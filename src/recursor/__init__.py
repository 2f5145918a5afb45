"""Recursive Language Models: answer questions over inputs of any length.

>>> from recursor import RLM
>>> RLM("openai/gpt-5").completion("Who is mentioned most?", context=Path("books/")).answer
"""

from recursor.errors import ConfigError, ModelError, RLMError, SandboxError, SubcallError
from recursor.limits import Limits
from recursor.rlm import RLM
from recursor.tools import tool
from recursor.types import Completion, StopReason

__all__ = [
    "RLM",
    "Completion",
    "ConfigError",
    "Limits",
    "ModelError",
    "RLMError",
    "SandboxError",
    "StopReason",
    "SubcallError",
    "tool",
]
