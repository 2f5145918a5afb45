"""A Model around a Model: what it does not change, it passes on."""

from __future__ import annotations

from recursor.protocols import Model
from recursor.types import Usage


class Around:
    """Base of models that hold a model.

    Beside the protocol a model may say what is known of it before it is asked; a model that
    says nothing is treated as it is without anything around it.
    """

    def __init__(self, model: Model) -> None:
        self.model = model

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.model!r})"

    @property
    def name(self) -> str:
        return self.model.name

    @property
    def priced(self) -> bool:
        """Whether the cost of a call will be known."""
        return bool(getattr(self.model, "priced", True))

    @property
    def host(self) -> str | None:
        """Where the model is called; None when it does not say."""
        found: str | None = getattr(self.model, "host", None)
        return found

    @property
    def window(self) -> int | None:
        """Tokens of input and output that the model takes; None when that is not known."""
        found: int | None = getattr(self.model, "window", None)
        return found

    @property
    def vision(self) -> bool | None:
        """Whether the model takes pictures; None when that is not known."""
        found: bool | None = getattr(self.model, "vision", None)
        return found

    @property
    def identity(self) -> str:
        """What a reply depends on beside the messages and the schema."""
        return str(getattr(self.model, "identity", self.model.name))

    def price(self, usage: Usage) -> float | None:
        """Return what a call costs, in US dollars; None when that is not known."""
        price = getattr(self.model, "price", None)
        dollars: float | None = price(usage) if price is not None else None
        return dollars
