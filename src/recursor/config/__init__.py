"""Settings and secrets. The only package that reads files and environment variables for them.

Settings are one frozen tree: defaults, then the user's TOML file, then a profile of it, then flags. Environment
variables hold secrets, never settings; beside those only the XDG directories and what terminals and
shells say of themselves are read. An unknown key is an error, and so is a value of the wrong type. A secret never
enters the tree: it is read when a model is called, and no error and no report shows it.
"""

from recursor.config.keys import api_key, sandbox, secret, stored_keys
from recursor.config.loading import Config, load
from recursor.config.paths import (
    color_allowed,
    config_file,
    default_store,
    in_environment,
    keys_file,
    redrawing_allowed,
)
from recursor.config.servers import McpSettings
from recursor.config.settings import ModelSettings, Settings
from recursor.config.tree import rows, written

__all__ = [
    "Config", "McpSettings", "ModelSettings", "Settings", "api_key", "color_allowed", "config_file", "default_store",
    "in_environment", "keys_file", "load", "redrawing_allowed", "rows", "sandbox", "secret", "stored_keys", "written",
]  # fmt: skip
