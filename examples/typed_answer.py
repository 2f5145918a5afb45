"""Get an instance of your own type, checked, instead of text: `schema=`.

    python examples/typed_answer.py                          # scripted, offline
    python examples/typed_answer.py openai/gpt-5 invoice.txt # with a model, over your text

An answer that does not fit is not accepted: the model reads what is wrong with it and tries again,
as the first block of SCRIPT does here.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

from recursor import RLM, Limits
from recursor.testing import ScriptedModel

QUESTION = "What is on this invoice?"
INVOICE = "Invoice 2041\nTo: M. Bovary\n3 m velvet at 37.50\n1 riding whip at 40.00\n"


@dataclass
class Item:
    """A line of an invoice."""

    name: str
    price: float


@dataclass
class Invoice:
    """What is wanted."""

    number: int
    customer: str
    items: list[Item]


SCRIPT = [
    """```repl
lines = context.splitlines()
invoice = {"number": lines[0].split()[1], "customer": lines[1].split(": ")[1], "items": []}
FINAL(invoice)
```""",
    """The number must be an integer.

```repl
invoice["number"] = int(invoice["number"])
for line in lines[2:]:
    name, price = line.rsplit(" at ", 1)
    invoice["items"].append({"name": name, "price": float(price)})
FINAL(invoice)
```""",
]


def main() -> None:
    if len(sys.argv) == 3:
        rlm = RLM(sys.argv[1], limits=Limits(max_tokens=200_000))
        done = rlm.completion(QUESTION, context=Path(sys.argv[2]), schema=Invoice)
    else:
        done = RLM(ScriptedModel(SCRIPT)).completion(QUESTION, context=INVOICE, schema=Invoice)
    invoice = done.answer
    assert isinstance(invoice, Invoice)
    total = sum(item.price for item in invoice.items)
    print(f"invoice {invoice.number} for {invoice.customer}: {len(invoice.items)} items, {total:.2f} in all")


if __name__ == "__main__":
    main()
