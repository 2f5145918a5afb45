"""E-mail as contexts: messages and mailboxes, what is attached to them, and what hostile ones do."""

from __future__ import annotations

import datetime
import io
import mailbox
import time
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import kinds
from recursor import RLM
from recursor.sandboxes.guest import loading, mail
from recursor.testing import ScriptedModel


def message(text: str = "Hello,\n\nsee the table.\n", **attached: bytes) -> EmailMessage:
    found = EmailMessage()
    found["From"] = "Ada Löve <ada@example.com>"
    found["To"] = "Max <max@example.com>, eve@example.com"
    found["Subject"] = "Sales für 2024"
    found["Date"] = "Tue, 02 Jan 2024 10:00:00 +0100"
    found["Message-ID"] = "<1@example.com>"
    found.set_content(text)
    found.add_alternative("<h1>Hello</h1>", subtype="html")
    for name, data in attached.items():
        found.add_attachment(data, "application", "octet-stream", filename=name.replace("_", "."))
    return found


def read(kind: str, data: bytes) -> Any:
    return loading.load(kind, io.BytesIO(data), len(data))


def answer_to(path: Path, code: str) -> tuple[Any, str]:
    root = ScriptedModel([f"```repl\n{code}\n```"])
    return RLM(root).completion("?", context=path).answer, root.requests[0][-1].content


def test_a_message_is_a_dict_with_its_attachments(tmp_path: Path) -> None:
    path = tmp_path / "a.eml"
    inner = message("inner", c_txt=b"deep")
    outer = message(a_csv=b"k,v\nx,1\n", b_docx=kinds.word(), bad_xlsx=b"PK\x03\x04 cut")
    outer.add_attachment(inner)
    path.write_bytes(bytes(outer))
    value, prompt = answer_to(path, "FINAL(context)")
    attached = value.pop("attachments")
    assert value == {
        "from": "Ada Löve <ada@example.com>", "to": "Max <max@example.com>, eve@example.com", "cc": None,
        "subject": "Sales für 2024", "id": "<1@example.com>", "in_reply_to": None, "text": "Hello,\n\nsee the table.",
        "date": datetime.datetime(2024, 1, 2, 10, tzinfo=datetime.timezone(datetime.timedelta(hours=1))),
    }  # fmt: skip
    assert attached["a.csv"] == [{"k": "x", "v": "1"}]
    assert attached["b.docx"] == "# Results\nAll is well.\na | b\n"
    assert attached["bad.xlsx"].startswith("[bad.xlsx: it cannot be read as XLSX")
    (name,) = attached.keys() - {"a.csv", "b.docx", "bad.xlsx"}
    assert name.endswith(".eml")
    assert (attached[name]["text"], attached[name]["attachments"]["c.txt"]) == ("inner", "deep")
    assert "an e-mail, a dict of from, to, cc, subject, date" in prompt
    assert "'a.csv', 'b.docx', 'bad.xlsx'" in prompt


def test_a_mailbox_is_a_list_of_messages(tmp_path: Path) -> None:
    path = tmp_path / "all.mbox"
    box = mailbox.mbox(path)
    for number in range(3):
        each = message(f"From me, number {number}\n", a_csv=b"k,v\nx,%d\n" % number)
        box.add(each)
    box.flush()
    box.close()
    code = "FINAL([[m['text'], m['attachments']['a.csv'][0]['v']] for m in context])"
    value, prompt = answer_to(path, code)
    assert value == [[f"From me, number {number}", str(number)] for number in range(3)]
    assert "a mailbox, each message a dict of" in prompt
    assert "context[i] is message i + 1" in prompt


def test_texts_of_a_message_are_read_in_their_charset_and_the_plainest_of_alternatives() -> None:
    html = b"From: a\nContent-Type: text/html; charset=iso-8859-1\n\n<p>caf\xe9</p><script>x()</script>"
    assert read("eml", html).value["text"] == "café"
    encoded = b"Subject: =?utf-8?q?caf=C3=A9?= =?nonsense?q?x?=\nContent-Type: text/plain; charset=nonsense\n\nna\xefve"
    assert read("eml", encoded).value["text"] == "naïve"
    mixed = EmailMessage()
    mixed["Subject"] = "x"
    mixed.set_content("first")
    mixed.make_mixed()
    mixed.attach(message("second"))
    assert read("eml", bytes(mixed)).value["text"] == "first\n\nsecond"


def test_what_is_no_message_stays_text() -> None:
    for kind, data in (("eml", b"just words"), ("mbox", b"just words"), ("eml", b"")):
        value, note = read(kind, data)
        assert value == data.decode()
        assert "cannot be read as" in note


def test_parts_in_parts_end() -> None:
    nested = b"".join(b"Content-Type: multipart/mixed; boundary=b%d\n\n--b%d\n" % (n, n) for n in range(300))
    assert "cannot be read as" in read("eml", b"From: a\n" + nested).note
    many = b"From: a\nContent-Type: multipart/mixed; boundary=b\n\n" + b"--b\n\nx\n" * 20_000
    assert "more than 10,000 parts" in read("eml", many).note
    deep = EmailMessage()
    deep["Subject"] = "bottom"
    for _ in range(6):
        outer = EmailMessage()
        outer["Subject"] = "x"
        outer.add_attachment(deep)
        deep = outer
    value = read("eml", bytes(deep)).value
    for _ in range(3):
        (value,) = value["attachments"].values()
    assert value.startswith("Subject: x\n")  # what is deeper stays text


@pytest.mark.parametrize(
    "data",
    [b"From: a\nSubject: " + b"=?utf-8?q?x?= " * 250_000, b"From: " + b"(" * 200_000, b"Date: " + b"1 " * 100_000 + b"\nFrom: x",
     b"From: a\nContent-Type: text/plain; " + b"x*0*=a;" * 20_000 + b"\n\nx", b"From: a\n" + b"X: y\n" * 200_000],
)  # fmt: skip
def test_long_headers_are_read_in_time(data: bytes) -> None:
    began = time.process_time()
    read("eml", data)
    assert time.process_time() - began < 10


@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.sampled_from(["eml", "mbox"]), st.data())
def test_a_damaged_message_is_read_or_stays_text(kind: str, data: st.DataObject) -> None:
    whole = bytearray(
        b"From x\n" * (kind == "mbox") + bytes(message(a_csv=b"k,v\n", b_zip=kinds.packed({"x": "y"})))
    )
    for _ in range(data.draw(st.integers(0, 12))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    value = read(kind, bytes(whole[: data.draw(st.integers(0, len(whole)))])).value
    for each in value if isinstance(value, list) else [value]:
        if isinstance(each, dict):
            assert isinstance(each["text"], str)
            dict(each.get("attachments", {}))


def test_a_large_mailbox_is_read_soon() -> None:
    one = b"From x\nFrom: a@b\nSubject: s\nContent-Type: text/plain\n\n" + b"words and words\n" * 20 + b"\n"
    began = time.process_time()
    assert len(read("mbox", one * 5_000).value) == 5_000
    assert time.process_time() - began < 10
    assert mail.FIELDS.startswith("from")
