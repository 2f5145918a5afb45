"""Give the REPL functions and data of your own: one runs on the host, one in the sandbox, and a table is there too.

    python examples/own_tools.py               # scripted, offline
    python examples/own_tools.py openai/gpt-5  # with a model

`rate` asks something that only the host knows. `amounts` is text that becomes a function in each
REPL: it is tried and tested code that the model need not write, and has no rights of yours.
"""

from __future__ import annotations

import sys

from recursor import RLM, CodeTool, Limits, tool
from recursor.testing import ScriptedModel

QUESTION = "What do the amounts in the text come to in euros, by department?"
TEXT = "ops: 120 USD for cables\nops: 30 EUR for tape\nlab: 80 GBP for glass\nlab: 10 USD for salt\n"
DEPARTMENTS = {"ops": "Operations", "lab": "Laboratory"}


@tool
def rate(currency: str) -> float:
    """Say what one unit of a currency is in euros.

    Args:
        currency: three capital letters.
    """
    return {"EUR": 1.0, "USD": 0.9, "GBP": 1.2}[currency]


AMOUNTS = '''
import re

ROW = re.compile(r"^(\\w+): (\\d+) ([A-Z]{3})", re.M)

def amounts(text: str) -> list[tuple[str, int, str]]:
    """Find all amounts in a text: department, number, currency."""
    return [(name, int(number), currency) for name, number, currency in ROW.findall(text)]
'''
SCRIPT = [
    """```repl
sums = {}
for name, number, currency in amounts(context):
    full = departments[name]
    sums[full] = sums.get(full, 0) + number * rate(currency)
FINAL(sums)
```"""
]


def main() -> None:
    model = sys.argv[1] if len(sys.argv) == 2 else ScriptedModel(SCRIPT)
    rlm = RLM(
        model,
        tools=[rate, CodeTool("amounts", AMOUNTS)],
        values={"departments": DEPARTMENTS},
        limits=Limits(max_tokens=200_000),
    )
    for department, euros in rlm.completion(QUESTION, context=TEXT).answer.items():
        print(f"{department}: {euros:.2f} EUR")


if __name__ == "__main__":
    main()
