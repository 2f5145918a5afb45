"""Programs that try to get out of a sandbox, to stay in it, or to harm its host. Data; `attacks` runs them.

Each is one block for a REPL of its own. Before it come `attack.TOOLS` and constants that say what there is to
attack (`attacks.Targets`). A program prints "BROKEN" when it reaches its goal, "refused" when it was
stopped, and "tried" when only the host can tell. It has no class statements and names no rare
exceptions, so that it runs in REPLs that have few built-ins, too.

None destroys what it reaches. One that could take memory, files, processes or the machine's time where
it succeeds is `dangerous`, and only tried where the others have achieved nothing.
"""

from __future__ import annotations

from recursor.testing.programs.attack import Attack
from recursor.testing.programs.boundary import CHANNEL, INTERPRETER, OUTPUT, VALUES
from recursor.testing.programs.machine import KERNEL, PROCESSES, RESOURCES
from recursor.testing.programs.outside import FILES, NETWORK, SECRETS

ATTACKS: tuple[Attack, ...] = (
    *FILES,
    *SECRETS,
    *NETWORK,
    *PROCESSES,
    *KERNEL,
    *RESOURCES,
    *CHANNEL,
    *INTERPRETER,
    *VALUES,
    *OUTPUT,
)  # fmt: skip
"""All of them."""
QUICK = tuple(attack for attack in ATTACKS if attack.quick)
"""Those that a user wants to see tried, in a second in all."""
