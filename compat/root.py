"""The root LM that answers clients here: code by the mark in what is asked, as a model would write it."""

from __future__ import annotations

import re
from collections.abc import Sequence

from recursor.types import Message

PLAIN = "I count.\n```python\nsaid = llm_query('Say yes.')\nFINAL(f'It is {6 * 7}; {said}.')\n```"
ANSWER = "It is 42; yes."
"""What `PLAIN` comes to."""
WEATHER = "```python\nFINAL(get_weather('Oslo') + ', as they say')\n```"
BOTH = """```python
from concurrent.futures import ThreadPoolExecutor
with ThreadPoolExecutor(2) as pool:
    FINAL(' and '.join(pool.map(get_weather, ['Oslo', 'Rome'])))
```"""
PERSON = (
    "```python\nFINAL({'name': 'Ada', 'age': 'thirty'})\n```",
    "```python\nFINAL({'name': 'Ada', 'age': 36})\n```",
)
REMEMBER = "```python\nFINAL(str([each['content'] for each in messages if each['role'] == 'user']))\n```"
AIDER = """```python
FINAL('''greet.py
<<<<<<< SEARCH
print("hello")
=======
print("good morning")
>>>>>>> REPLACE
''')
```"""
AIDER_WHOLE = """```python
fence = '`' * 3
FINAL(f'greet.py\\n{fence}\\nprint("good evening")\\n{fence}\\n')
```"""
OPENCODE = (
    """```python
seen = read(filePath=FOLDER + '/greet.py')
made = write(filePath=FOLDER + '/made.txt', content='by opencode')
listed = bash(command='cat made.txt; ls')
```""",
    "```python\nedit(filePath=FOLDER + '/greet.py', oldString='hello', newString='good morning')\nFINAL(listed)\n```",
)
CODEX = (
    """```python
seen = exec_command("cat greet.py")
exec_command("sed -i s/hello/'good morning'/ greet.py")
```""",
    "```python\nFINAL(exec_command('cat greet.py'))\n```",
)
AGENT = """```python
import json
named = json.loads(spawn_agent(message='[plain] What is it?'))
FINAL(wait_agent(targets=[named['agent_id']]))
```"""
INSPECT = "```python\nFINAL('Default answer: ' + str(addition(2, 3)))\n```"
SUBMIT = "```python\nseen = bash(command='echo 5')\nsubmit(seen.strip())\n```"
FOREVER = "```python\nwhile True: pass\n```"
SCRIPTS: dict[str, Sequence[str]] = {
    "plain": [PLAIN],
    "weather": [WEATHER],
    "both": [BOTH],
    "person": PERSON,
    "forced": ["```python\nFINAL({'city': 'Oslo'})\n```"],
    "sum": ["```python\nFINAL({'x': 2, 'y': 3})\n```"],
    "either": ["```python\nFINAL({'name': 'get_weather', 'arguments': {'city': 'Oslo'}})\n```"],
    "remember": [REMEMBER],
    "aider": [AIDER],
    "aider-whole": [AIDER_WHOLE],
    "opencode": OPENCODE,
    "codex": CODEX,
    "inspect": [INSPECT],
    "submit": [SUBMIT],
    "patch": ["```python\nFINAL(apply_patch('*** Begin Patch'))\n```"],
    "forever": [FOREVER],
    "history": ["```python\nFINAL(str(history))\n```"],
    "degrees": ["```python\nFINAL(context[0]['degrees'])\n```"],
    "look": [
        "```python\nFINAL(str([part for each in messages for part in each['content'] or '' if isinstance(part, dict)]))\n```"
    ],
    "agent": [AGENT],
    "view": ["```python\nFINAL(view_image(FOLDER + '/dot.png'))\n```"],
    "count": ["```python\nFINAL(str(len(messages[0]['content'])))\n```"],
}


def says(messages: Sequence[Message]) -> str:
    """The reply to a prompt."""
    if messages[0].role == "user":
        return "yes"
    turns = [index for index, message in enumerate(messages) if message.role == "assistant"]
    opening = "\n".join(message.content for message in messages[: turns[0] if turns else None])
    asked = opening.rpartition("Question:")[2]
    marks = [mark for mark in re.finditer(r"\[([a-z-]+)(?: in ([^\]]+))?\]", asked) if mark[1] in SCRIPTS]
    if not marks:
        return "```python\nFINAL('A title')\n```"
    replies = SCRIPTS[marks[0][1]]
    return replies[min(len(turns), len(replies) - 1)].replace("FOLDER", repr(marks[0][2]))
