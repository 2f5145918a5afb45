"""`re` as it is, but for taking a `Text` where it takes a `str`."""

from __future__ import annotations

import functools
import re
from typing import Any, Final

from .text import Text

_LAZY: Final = ("search", "match", "findall", "finditer")
"""What a `Text` does itself."""
_WHOLE: Final = ("fullmatch", "split", "sub", "subn")
"""What is done with a `str` that is made of it."""


class Pattern:
    """A compiled pattern. Counts as an instance of `re.Pattern`."""

    __slots__ = ("_compiled",)

    def __init__(self, compiled: re.Pattern[Any]) -> None:
        self._compiled = compiled

    @property  # type: ignore[misc]  # what isinstance asks
    def __class__(self) -> Any:
        return re.Pattern

    def __getattr__(self, name: str) -> Any:
        return getattr(self._compiled, name)

    def __eq__(self, other: object) -> bool:
        return self._compiled == (other._compiled if type(other) is Pattern else other)

    def __hash__(self) -> int:
        return hash(self._compiled)

    def __repr__(self) -> str:
        return repr(self._compiled)

    def __copy__(self) -> Pattern:
        return self

    def __deepcopy__(self, _memo: Any) -> Pattern:
        return self

    def __reduce__(self) -> Any:
        return re.compile, (self._compiled.pattern, self._compiled.flags)


def teach_re() -> None:
    """Let the functions of `re`, and what `re.compile` makes, take a `Text` where they take a `str`."""
    if hasattr(re.compile, "__wrapped__"):
        return
    for name in (*_LAZY, *_WHOLE):
        function = (_lazy if name in _LAZY else _whole)(name, getattr(re, name))
        setattr(re, name, functools.update_wrapper(function, getattr(re, name)))
    re.compile = _compiling(re.compile)


def _compiling(original: Any) -> Any:
    def compile(pattern: Any, flags: Any = 0) -> Any:  # noqa: A001 - it takes the place of that
        compiled = original(pattern, flags)
        return compiled if type(compiled) is Pattern else Pattern(compiled)

    return functools.update_wrapper(compile, original)


def _lazy(name: str, original: Any) -> Any:
    def function(pattern: Any, string: Any, flags: Any = 0) -> Any:
        if isinstance(string, Text):
            return getattr(string, name)(pattern, flags)
        return original(pattern, string, flags)

    return function


def _whole(_name: str, original: Any) -> Any:
    def function(*args: Any, **kwargs: Any) -> Any:
        return original(*map(_str, args), **{key: _str(value) for key, value in kwargs.items()})

    return function


def _lazy_method(name: str) -> Any:
    def method(self: Pattern, string: Any, *args: Any, **kwargs: Any) -> Any:
        if isinstance(string, Text):
            return getattr(string, name)(self._compiled, 0, *args, **kwargs)
        return getattr(self._compiled, name)(string, *args, **kwargs)

    return method


def _whole_method(name: str) -> Any:
    def method(self: Pattern, *args: Any, **kwargs: Any) -> Any:
        return _whole(name, getattr(self._compiled, name))(*args, **kwargs)

    return method


def _str(value: Any) -> Any:
    return str(value) if isinstance(value, Text) else value


for _name in _LAZY:
    setattr(Pattern, _name, _lazy_method(_name))
for _name in _WHOLE:
    setattr(Pattern, _name, _whole_method(_name))
