"""What tests of programs that use recursor need: scripted models, a sink, a model server, checks.

Public. Nothing in here leaves the machine or costs money.
"""

from recursor.testing.checks import check_model, check_sandbox
from recursor.testing.scripted import ListSink, Script, ScriptedModel
from recursor.testing.server import ModelServer

__all__ = ["ListSink", "ModelServer", "Script", "ScriptedModel", "check_model", "check_sandbox"]
