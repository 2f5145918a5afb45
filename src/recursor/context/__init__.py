"""What a caller passes as context -> what a REPL can load. Checked before anything costs money."""

from recursor.context.sources import Source, prepare, same

__all__ = ["Source", "prepare", "same"]
