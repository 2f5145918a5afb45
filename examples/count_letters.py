"""Ask a sub-LM about each of 150 names, and get one nested dict: no value passes through the root LM.

    python examples/count_letters.py               # scripted, offline
    python examples/count_letters.py openai/gpt-5  # with a model

A long answer is where models that copy values by hand make mistakes. Here the root LM writes a loop,
the replies stay in the REPL, and the dict is made of them by code.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence

from recursor import RLM, Limits
from recursor.testing import ScriptedModel
from recursor.types import Message

QUESTION = (
    "How often does the letter r, small or capital, stand in each name? Ask a sub-LM for each name. "
    "Answer with a dict of kind to dict of name to number."
)
LISTS = {
    "fruits": """
        apple; apricot; avocado; banana; bell pepper; bilberry; blackberry; blackcurrant; blood orange;
        blueberry; boysenberry; breadfruit; canary melon; cantaloupe; cherimoya; cherry; chili pepper;
        clementine; cloudberry; coconut; cranberry; cucumber; currant; damson; date; dragonfruit; durian;
        eggplant; elderberry; feijoa; fig; goji berry; gooseberry; grape; grapefruit; guava; honeydew;
        huckleberry; jackfruit; jambul; jujube; kiwi fruit; kumquat; lemon; lime; loquat; lychee;
        mandarine; mango; mulberry
    """,
    "countries": """
        Afghanistan; Albania; Algeria; Andorra; Angola; Antigua & Barbuda; Argentina; Armenia; Australia;
        Austria; Azerbaijan; Bahamas; Bahrain; Bangladesh; Barbados; Belarus; Belgium; Belize; Benin;
        Bhutan; Bolivia; Bosnia & Herzegovina; Botswana; Brazil; Brunei; Bulgaria; Burkina Faso; Burundi;
        Cambodia; Cameroon; Canada; Cape Verde; Central African Republic; Chad; Chile; China; Colombia;
        Comoros; Congo; Costa Rica; Cote D'Ivoire; Croatia; Cuba; Cyprus; Czech Republic; Democratic
        Republic of the Congo; Denmark; Djibouti; Dominica; Dominican Republic
    """,
    "animals": """
        aardvark; alligator; alpaca; antelope; ape; armadillo; baboon; badger; bat; bear; beaver; bison;
        boar; buffalo; bull; camel; canary; capybara; cat; chameleon; cheetah; chimpanzee; chinchilla;
        chipmunk; cougar; cow; coyote; crocodile; crow; deer; dingo; dog; donkey; dromedary; elephant;
        elk; ewe; ferret; finch; fish; fox; frog; gazelle; gila monster; giraffe; gnu; goat; gopher;
        gorilla; grizzly bear
    """,
}
"""The names of the first fifty fruits, countries and common animals of dariusk/corpora, which is CC0."""
NAMES = {kind: re.split(r";\s+", text.strip()) for kind, text in LISTS.items()}
SCRIPT = [
    """```repl
prompts = [
    f"How often does the letter r, small or capital, stand in {name!r}? Reply with the number alone."
    for names in context.values() for name in names
]
replies = iter(llm_query_batched(prompts))
FINAL({kind: {name: int(next(replies)) for name in names} for kind, names in context.items()})
```"""
]


def count(messages: Sequence[Message]) -> str:
    """A stand-in for a sub-LM: it sees one name."""
    found = re.search(r"stand in [\'\"](.*)[\'\"]\?", messages[-1].content)
    return str(found[1].lower().count("r")) if found else "no name"


def main() -> None:
    if len(sys.argv) == 2:
        rlm = RLM(sys.argv[1], limits=Limits(max_tokens=200_000))
    else:
        rlm = RLM(ScriptedModel(SCRIPT), sub_model=ScriptedModel(count, name="counter"))
    done = rlm.completion(QUESTION, context=NAMES)
    for kind, counts in done.answer.items():
        print(f"{kind}: {sum(counts.values())} in {len(counts)} names, most in {max(counts, key=counts.get)}")
    print(f"{done.turns} turn(s), {done.usage.calls} calls")


if __name__ == "__main__":
    main()
