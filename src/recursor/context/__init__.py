"""What a caller passes as context -> what a REPL can load. Checked before anything costs money."""

from recursor.context.sources import Source, prepare, same
from recursor.sandboxes.folders import FolderSource

__all__ = ["FolderSource", "Source", "prepare", "same"]
