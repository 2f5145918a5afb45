"""What tests of programs that use recursor need: scripted models, a sink, a model server, checks, attacks.

Public. Nothing in here leaves the machine or costs money.
"""

from recursor.testing.attacks import Finding, Verdict, run_attacks
from recursor.testing.checks import check_model, check_sandbox
from recursor.testing.loaders import check_loader
from recursor.testing.programs import ATTACKS
from recursor.testing.programs.attack import Attack
from recursor.testing.scripted import ListSink, Script, ScriptedModel
from recursor.testing.server import ModelServer

__all__ = [
    "ATTACKS",
    "Attack",
    "Finding",
    "ListSink",
    "ModelServer",
    "Script",
    "ScriptedModel",
    "Verdict",
    "check_loader",
    "check_model",
    "check_sandbox",
    "run_attacks",
]
