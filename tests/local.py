"""A local model server as Ollama, LM Studio, llama.cpp or vLLM is one: chat, and what it says of itself."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

Answer = Callable[[dict[str, Any]], Any]


class LocalServer:
    """Serves documents by path, and chat whose replies are the code words that are left of a prompt.

    Attributes:
        prompts: characters of each prompt that came.
        paths: each path that was asked for, but for chat.
    """

    def __init__(
        self,
        documents: Mapping[str, Any] | None = None,
        *,
        window: int | None = None,
        refuses: bool = False,
        counts: str = "read",
        repeats: bool = True,
    ) -> None:
        """Say how it behaves.

        Args:
            documents: path -> a JSON document, bytes, a status, or what makes one of a posted body.
            window: tokens, of 4 characters, beyond which it drops messages: never the first, nor the last.
            refuses: whether it says so, with an error.
            counts: the tokens that it reports: "read", "sent", or "" for none.
            repeats: whether the model behind it does what it is asked.
        """
        self.documents = dict(documents or {})
        self.window, self.refuses, self.counts, self.repeats = window, refuses, counts, repeats
        self.prompts: list[int] = []
        self.paths: list[str] = []
        self.keys: list[str | None] = []

    @property
    def root(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    @property
    def url(self) -> str:
        return f"{self.root}/v1"

    def __enter__(self) -> Self:
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.paths.append(self.path)
                outer.keys.append(self.headers.get("Authorization") or self.headers.get("x-api-key"))
                self._send(outer.documents.get(self.path, 404))

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                if self.path == "/v1/chat/completions":
                    self._send(*outer._chat(body))
                    return
                outer.paths.append(self.path)
                found = outer.documents.get(self.path, 404)
                self._send(found(body) if callable(found) else found)

            def _send(self, found: Any, status: int = 200) -> None:
                status = found if isinstance(found, int) else status
                data = found if isinstance(found, bytes) else json.dumps(found).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def _chat(self, body: dict[str, Any]) -> tuple[Any, int]:
        messages = [each["content"] for each in body["messages"]]
        sent = sum(map(len, messages))
        self.prompts.append(sent)
        if self.window is not None and sent / 4 > self.window:
            if self.refuses:
                return {"error": {"message": f"the prompt exceeds the context length of {self.window}",
                                  "code": "context_length_exceeded"}}, 400  # fmt: skip
            first, *middle, last = messages
            while middle and sum(map(len, (first, *middle, last))) / 4 > self.window:
                middle.pop(0)
            messages = [first, *middle, last]
        words = " ".join(re.findall(r"CODE WORD (\S+)\.", " ".join(messages))) if self.repeats else "Hello!"
        read = sum(map(len, messages))
        tokens = {"read": read, "sent": sent}.get(self.counts)
        usage = {} if tokens is None else {"prompt_tokens": tokens // 4, "completion_tokens": 9}
        choice = {"index": 0, "message": {"role": "assistant", "content": words}, "finish_reason": "stop"}
        return {"model": body["model"], "choices": [choice], "usage": usage}, 200


def ollama(
    loads: int, made_for: int = 40_960, parameters: str = "", name: str = "qwen3:8b"
) -> dict[str, Any]:
    """The documents of an Ollama that loads its one model with so many tokens, when it is asked to."""
    loaded: dict[str, Any] = {"models": []}

    def load(body: dict[str, Any]) -> Any:
        assert body == {"model": name}
        loaded["models"] = [{"name": name, "model": name, "context_length": loads}]
        return {"done": True}

    return {
        "/v1/models": {"data": [{"id": name}, {"id": "nomic-embed-text"}]}, "/api/ps": loaded, "/api/generate": load,
        "/api/show": {"parameters": parameters, "model_info": {"general.architecture": "qwen3",
                                                              "qwen3.context_length": made_for}},
    }  # fmt: skip
