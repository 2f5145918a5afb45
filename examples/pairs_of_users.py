"""Find all pairs of users of whom something holds: work and answer grow with the square of the input.

    python examples/pairs_of_users.py                         # scripted, offline
    python examples/pairs_of_users.py openai/gpt-5 lines.txt  # with a model, over your lines

The form is that of OOLONG-Pairs (arXiv 2512.24601, appendix): lines with a date, a user and a request
whose kind is not given. A sub-LM finds the kind of each; pairs are then a matter of code, and the list
of them, longer than any reply could be, leaves the REPL as a value.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from recursor import RLM, Limits
from recursor.testing import ScriptedModel
from recursor.types import Message

KINDS = ("AddToPlaylist", "BookRestaurant", "GetWeather", "PlayMusic", "RateBook", "SearchCreativeWork")
QUESTION = f"""Each line of the context is a request of a user. Its kind is one of {", ".join(KINDS)} or another
(the data does not say, it follows from the meaning). List all pairs of user IDs, no pair twice, the lower ID
first, where both users have at least one request of kind PlayMusic or GetWeather and none of both has one of
kind RateBook before Mar 01, 2023. The form is (user_id_1, user_id_2), one pair in a line."""
SCRIPT = [
    """First a look at the data.
```repl
print(len(context), context[:400])
```""",
    """A sub-LM labels each request.
```repl
import datetime
lines = [line.split(" || ", 2) for line in context.splitlines() if " || Instance: " in line]
ask = "Of which kind is this request: AddToPlaylist, BookRestaurant, GetWeather, PlayMusic, RateBook, " \\
      "SearchCreativeWork or another? Reply with the kind alone.\\n\\n"
kinds = llm_query_batched([ask + text.removeprefix("Instance: ") for _, _, text in lines])
print(len(lines), sorted(set(kinds)))
```""",
    """```repl
wanted, barred = set(), set()
bound = datetime.datetime(2023, 3, 1)
for (date, user, _), kind in zip(lines, kinds):
    user = int(user.removeprefix("User: "))
    if kind.strip() in ("PlayMusic", "GetWeather"):
        wanted.add(user)
    if kind.strip() == "RateBook" and datetime.datetime.strptime(date, "Date: %b %d, %Y") < bound:
        barred.add(user)
users = sorted(wanted - barred)
FINAL("\\n".join(f"({a}, {b})" for i, a in enumerate(users) for b in users[i + 1 :]))
```""",
]
LINES = """\
Date: Jan 06, 2023 || User: 44436 || Instance: play some jazz
Date: Feb 11, 2023 || User: 30714 || Instance: will it rain in Lisbon tomorrow
Date: Feb 12, 2023 || User: 30714 || Instance: a table for two tonight
Date: Feb 20, 2023 || User: 51902 || Instance: play the new album
Date: Feb 21, 2023 || User: 51902 || Instance: four stars for this novel
Date: Apr 02, 2023 || User: 44436 || Instance: two stars for that novel
Date: May 09, 2023 || User: 61013 || Instance: is there rain in Bergen today
"""
WORDS = {"play": "PlayMusic", "rain": "GetWeather", "table": "BookRestaurant", "stars": "RateBook"}


def label(messages: Sequence[Message]) -> str:
    """A stand-in for a sub-LM: it sees one request."""
    request = messages[-1].content.partition("\n\n")[2]
    return next((kind for word, kind in WORDS.items() if word in request), "another")


def main() -> None:
    if len(sys.argv) == 3:
        rlm = RLM(sys.argv[1], limits=Limits(max_tokens=2_000_000))
        done = rlm.completion(QUESTION, context=Path(sys.argv[2]))
    else:
        rlm = RLM(ScriptedModel(SCRIPT), sub_model=ScriptedModel(label, name="labeller"))
        done = rlm.completion(QUESTION, context=LINES)
    print(done.answer)
    print(f"{done.turns} turn(s), {done.usage.calls} calls, {done.usage.total_tokens:,} tokens")


if __name__ == "__main__":
    main()
