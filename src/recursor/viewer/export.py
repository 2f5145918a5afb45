"""A run as one HTML file: the page with its data in it. It opens from a disk, and needs no network.

The data is gzip in base64 in a block that browsers do not execute, so that nothing in it can be
markup; the page's own code is the only one that the file's policy lets run.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
from importlib import resources
from pathlib import Path
from typing import Any, TextIO

from recursor.trajectory.view import Trajectories
from recursor.viewer import data, reading, spans

MOST = 64 << 20
"""Characters of replies and prompts of sub-calls that a file takes; those beyond are in its tables alone."""


def write(recorded: Trajectories, store: Path, run_id: str, out: TextIO) -> None:
    """Write a run and its children as one page.

    Raises:
        TrajectoryError: the store holds no such run.
    """
    packed = base64.b64encode(gzip.compress(data.to_json(_responses(recorded, store, run_id)), 6))
    script = _part("viewer.js").replace("</script", "<\\/script")
    style = _part("viewer.css")
    out.write(
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; script-src {_digest(script)}; '
        f"style-src {_digest(style)}; img-src data:; base-uri 'none'; form-action 'none'\">\n"
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="referrer" content="no-referrer">\n<meta name="color-scheme" content="light dark">\n'
        '<link rel="icon" href="data:,">\n<title>recursor</title>\n'
        f'<style>{style}</style>\n</head>\n<body>\n<div id="app"></div>\n'
    )
    out.write(
        f'<script type="application/octet-stream" id="recursor-data">{packed.decode("ascii")}</script>\n'
    )
    out.write(f'<script type="module">{script}</script>\n</body>\n</html>\n')


def _responses(recorded: Trajectories, store: Path, run_id: str) -> dict[str, Any]:
    """What the server would answer, by path; messages are kept once, and calls name them by place."""
    head = data.run(recorded, store, run_id)
    if head["state"] == "live":  # of the moment at which it was written
        head["state"] = "cut off"
    run_id = head["id"]
    happened = spans.spans(recorded, run_id)
    responses: dict[str, Any] = {
        "runs": {"runs": [head], "total": 1, "models": [head["model"]], "store": ""},
        f"runs/{run_id}": head,
        f"runs/{run_id}/spans": happened,
        f"runs/{run_id}/prompts": data.prompts(recorded, run_id),
        f"runs/{run_id}/answer": data.answer(recorded.run(run_id), 1 << 40),
    }
    found = reading.read(recorded, run_id)
    responses[f"runs/{run_id}/evidence"] = reading.evidence(found)
    responses[f"runs/{run_id}/coverage"] = reading.coverage(found)
    numbers: set[tuple[int, int]] = {(block["run"], block["turn"]) for block in happened["blocks"]}
    calls = happened["calls"]
    of_root = [index for index, purpose in enumerate(calls["purpose"]) if purpose != "sub"]
    numbers |= {
        (calls["run"][index], calls["turn"][index]) for index in of_root if calls["purpose"][index] == "root"
    }
    for place, number in sorted(numbers):
        child = happened["runs"][place]["id"]
        responses[f"runs/{child}/turns/{number}"] = data.turn(recorded, child, number)
    chosen = set(of_root)
    room = MOST
    messages: dict[tuple[str, str, int], int] = {}
    for index in [*of_root, *(index for index in range(len(calls["id"])) if index not in chosen)]:
        if room <= 0:
            break
        call = data.call(recorded, calls["id"][index])
        if index not in chosen:
            room -= len(call["reply"] or "") + sum(len(message["content"]) for message in call["messages"])
        call["messages"] = [
            messages.setdefault((each["role"], each["content"], each["size"]), len(messages))
            for each in call["messages"]
        ]
        responses[f"calls/{call['id']}"] = call
    responses["messages"] = [
        {"role": role, "content": content, "size": size} for role, content, size in messages
    ]
    return responses


def _part(name: str) -> str:
    return resources.files("recursor.viewer").joinpath("page", name).read_text("utf-8")


def _digest(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode('utf-8')).digest()).decode('ascii')}'"
