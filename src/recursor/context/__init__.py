"""What a caller passes as context -> what a REPL can load. Checked before anything costs money."""

from recursor.context.sources import AliasSource, Source, prepare, same
from recursor.sandboxes.folders import FolderSource

__all__ = ["AliasSource", "FolderSource", "Source", "prepare", "same"]
