"""Tools of MCP servers in the REPL, from outside: real servers of the official package, real sandboxes."""

from __future__ import annotations

import asyncio
import gzip
import http.server
import keyword
import os
import resource
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recursor import RLM, CodeTool, ConfigError, Policy, SubcallError, tool
from recursor.mcp import McpServer, connection
from recursor.mcp.arguments import Arguments
from recursor.offered import MAX_TOLD, Offer, ToolSource, offered, told
from recursor.testing import ModelServer, ScriptedModel
from recursor.tools import RESERVED
from recursor.types import Message

SERVER = Path(__file__).parent / "standins" / "mcp_tools.py"
LIAR = Path(__file__).parent / "standins" / "mcp_liar.py"
COMMAND = [sys.executable, "-W", "error", str(SERVER)]


def tries(*calls: str) -> str:
    """Code that answers with what each call returned, or raised."""
    lines = ["out = []"]
    for call in calls:
        lines += [f"try: out.append({call})", "except SubcallError as error: out.append('! ' + str(error))"]
    return "```repl\n" + "\n".join([*lines, "FINAL(out)"]) + "\n```"


def answers(server: ToolSource | Sequence[ToolSource], *calls: str, **options: Any) -> list[Any]:
    """What calls in the REPL come to."""
    sources = [server] if isinstance(server, ToolSource) else list(server)
    tools = [*sources, *options.pop("tools", ())]
    answer = RLM(ScriptedModel([tries(*calls)]), tools=tools, **options).completion("?").answer
    assert isinstance(answer, list)
    return answer


def prompt_of(*servers: ToolSource) -> str:
    """What a root LM is told where there are servers."""
    model = ScriptedModel(["```repl\nFINAL(1)\n```"])
    RLM(model, tools=servers).completion("?")
    return model.requests[0][0].content


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[McpServer]:
    """A server that many tests share, as runs do."""
    log = tmp_path_factory.mktemp("server") / "log"
    made = McpServer("own", command=[*COMMAND, str(log)])
    yield made
    made.close()


# Calls ----------------------------------------------------------------------------------------


def test_tools_are_functions_and_return_python_values(server: McpServer) -> None:
    assert answers(server, "add(1)", "add(a=1, b=5)", "add(1, b=None)", "own_list()", "find_it('x', {'a': [1]})") == [
        3, 6, 3, [{"a": 1}, {"a": 2}], "found x {'a': [1]}",
    ]  # fmt: skip


def test_arguments_that_do_not_fit_are_refused_and_the_code_reads_what_fits(server: McpServer) -> None:
    wrong = answers(server, "add('x')", "add()", "add(1, 2, 3)", "add(1, a=2)", "add(b'x')", "add(float('nan'))", "find_it('\\ud800')")  # fmt: skip
    told = "; it is add(a: int, b: int = 2)"
    assert wrong[:4] == [
        f"! add: $.a: 'x' is not of type 'integer'{told}",
        f"! add: 'a' is missing{told}",
        f"! add: it takes 2 arguments, not 3{told}",
        f"! add: 'a' is given twice{told}",
    ]
    assert all("cannot be sent as JSON" in each for each in wrong[4:])


def test_a_tool_that_fails_raises_in_the_code(server: McpServer) -> None:
    [why] = answers(server, "own_read_resource('memo://none')")
    assert why.startswith("! the MCP server 'own' refused: ")
    assert answers(server, "variable('HOME')") == [os.environ.get("HOME")]


def test_pictures_are_named_and_what_is_too_large_is_refused(server: McpServer) -> None:
    shown, refused, fits = answers(server, "picture()", "large(9_000_000)", "len(large(1_000_000))")
    assert shown == "here:\n[image: image/png, 8 bytes, not shown]"
    assert refused == "! large returned more than 8,388,608 characters; ask for less at a time"
    assert fits == 1_000_000


def test_resources_are_listed_and_read(server: McpServer) -> None:
    listed, text, data = answers(
        server, "own_resources()", "own_read_resource('memo://one')", "own_read_resource('memo://bytes')"
    )
    assert {row["uri"]: row["type"] for row in listed} == {
        "memo://one": "text/plain",
        "memo://bytes": "image/png",
    }
    assert text == "a memo"
    assert data == b"\x89PNG\r\n\x1a\n"


def test_calls_at_once_are_answered_each(server: McpServer) -> None:
    code = (
        "from concurrent.futures import ThreadPoolExecutor\n"
        "with ThreadPoolExecutor(20) as pool: FINAL(list(pool.map(add, range(200))))"
    )
    model = ScriptedModel([f"```repl\n{code}\n```"])
    assert RLM(model, tools=[server]).completion("?").answer == [number + 2 for number in range(200)]


async def test_it_works_from_any_event_loop_and_in_children(server: McpServer) -> None:
    def script(messages: Sequence[Message]) -> str:
        child = "add one" in messages[-1].content
        return tries("add(1)") if child else "```repl\nFINAL(rlm_query('add one', tools=['add']))\n```"

    from recursor import Limits

    rlm = RLM(ScriptedModel(script), tools=[server], limits=Limits(max_depth=2))
    first, second = await asyncio.gather(rlm.acompletion("?"), rlm.acompletion("?"))
    assert first.answer == second.answer == [3]


# Connections ----------------------------------------------------------------------------------


def test_a_server_starts_with_the_first_run_and_is_kept(tmp_path: Path) -> None:
    log = tmp_path / "log"
    made = McpServer("own", command=[*COMMAND, str(log)])
    rlm = RLM(ScriptedModel([tries("count()")] * 2), tools=[made])
    assert not log.exists()
    assert [rlm.completion("?").answer for _ in range(2)] == [[1], [2]]
    assert log.read_text().count("started") == 1
    made.close()
    made.close()
    assert answers(made, "count()") == [3]
    assert log.read_text().count("started") == 2
    made.close()


def test_a_server_that_crashes_is_an_error_and_the_next_call_connects_again(tmp_path: Path) -> None:
    made = McpServer("own", command=[*COMMAND, str(tmp_path / "log")])
    gone, again = answers(made, "crash()", "count()")
    assert gone == "! the MCP server 'own' is gone; the next call connects to it again"
    assert again == 1
    made.close()


def test_a_call_that_takes_too_long_is_an_error_and_the_server_goes_on(tmp_path: Path) -> None:
    made = McpServer("own", command=COMMAND, timeout=0.5)
    code = """```repl
def ended(call):
    while True:
        try:
            return call()
        except SubcallError as error:
            if call is slow:
                return str(error)
FINAL([ended(slow), ended(lambda: add(1))])
```"""
    answer = RLM(ScriptedModel([code]), tools=[made]).completion("?").answer
    assert answer == ["the MCP server 'own' did not answer within 0.5 s", 3]
    made.close()


def test_a_run_that_is_cancelled_leaves_the_server_to_others(server: McpServer) -> None:
    async def cancelled() -> None:
        run = asyncio.create_task(RLM(ScriptedModel([tries("slow()")]), tools=[server]).acompletion("?"))
        await asyncio.wait([run], timeout=1.0)
        run.cancel()
        with pytest.raises(asyncio.CancelledError):
            await run

    asyncio.run(cancelled())
    assert answers(server, "add(1)") == [3]


@pytest.mark.parametrize(
    ("command", "why"),
    [
        (["/no/such/program"], "there is no program '/no/such/program'"),
        ([sys.executable, "-c", "import sys; sys.exit('bad\\nlast words')"], "it said: last words"),
        ([sys.executable, "-c", "print('no protocol')"], "cannot be reached"),
    ],
)
def test_a_server_that_cannot_be_had_is_said_before_anything_is_paid(command: list[str], why: str) -> None:
    model = ScriptedModel([])
    with pytest.raises(ConfigError, match="MCP server 'own'") as caught:
        RLM(model, tools=[McpServer("own", command=command)]).completion("?")
    assert why in str(caught.value)
    assert not model.requests


def test_a_server_that_says_nothing_is_given_up_and_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import mcp  # noqa: F401 - so that the time is the server's

    monkeypatch.setattr(connection, "STARTING", 3.0)
    note = tmp_path / "pid"
    code = f"import os, time; open({str(note)!r}, 'w').write(str(os.getpid())); time.sleep(1000)"
    with pytest.raises(ConfigError, match="did not answer within"):
        RLM(
            ScriptedModel([]), tools=[McpServer("own", command=[sys.executable, "-S", "-c", code])]
        ).completion("?")
    while Path(f"/proc/{note.read_text()}").exists():
        threading.Event().wait(0.05)


def test_a_process_that_ends_ends_its_servers(tmp_path: Path) -> None:
    log = tmp_path / "log"
    code = (
        "import sys; from recursor import RLM; from recursor.mcp import McpServer\n"
        "from recursor.testing import ScriptedModel\n"
        f"server = McpServer('own', command={[*COMMAND, str(log)]!r})\n"
        "model = ScriptedModel(['```repl\\nFINAL(add(1))\\n```'])\n"
        "print(RLM(model, tools=[server]).completion('?').answer)\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "3\n", "")
    pid = int(log.read_text().split()[1])
    assert not Path(f"/proc/{pid}").exists()


# Servers that do on the wire what no package would ---------------------------------------------


def lying(mode: str, *calls: str, timeout: float = 30.0) -> list[Any]:
    """What calls of `go` come to."""
    made = McpServer("liar", command=[sys.executable, "-S", str(LIAR), mode], timeout=timeout)
    try:
        return answers(made, *calls)
    finally:
        made.close()


def memory() -> int:
    """Bytes that this process has had at most."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10


def test_a_message_without_an_end_ends_the_connection_and_not_the_memory() -> None:
    before = memory()
    [why] = lying("endless", "go()")
    assert why == (
        "! the MCP server 'liar' is gone: it sent more than 33,554,432 bytes at once; the next call connects to it again"
    )
    assert memory() - before < 200 << 20


def test_a_server_that_asks_and_reads_nothing_is_read_no_further() -> None:
    before = memory()
    [why] = lying("asks", "go()", timeout=2.0)
    assert why == "! the MCP server 'liar' did not answer within 2 s"
    assert memory() - before < 150 << 20


def test_a_large_result_is_there_at_once() -> None:
    assert lying("large", "len(go())") == [4_000_000]


def test_half_a_sign_is_a_question_mark() -> None:
    assert lying("half", "go()") == ["half a sign: ?"]


@pytest.mark.parametrize("mode", ["quiet", "chatty"])
def test_a_server_may_close_stderr_and_print_what_is_no_message(mode: str) -> None:
    assert lying(mode, "len(go())", "len(go())") == [4_000_000] * 2


@pytest.mark.parametrize("packed", [False, True])
def test_a_reply_over_http_has_a_bound_packed_or_not(packed: bool) -> None:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            if packed:
                self.send_header("Content-Encoding", "gzip")
            self.end_headers()
            with suppress(OSError):
                for _ in range(40):
                    self.wfile.write(gzip.compress(bytes(1 << 20)) if packed else bytes(1 << 20))

        def log_message(self, *_: Any) -> None:
            """Nothing is printed."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as listening:
        thread = threading.Thread(target=listening.serve_forever, args=(0.01,))
        thread.start()
        made = McpServer("web", url=f"http://127.0.0.1:{listening.server_address[1]}/mcp", timeout=10)
        try:
            with pytest.raises(
                ConfigError, match="packed, though" if packed else "more than 33,554,432 bytes"
            ):
                RLM(ScriptedModel([]), tools=[made]).completion("?")
        finally:
            made.close()
            listening.shutdown()
            thread.join()


# What is offered ------------------------------------------------------------------------------


def test_the_root_lm_reads_a_line_for_each_tool_and_the_rest_in_the_repl(server: McpServer) -> None:
    prompt = prompt_of(server)
    assert "- `add(a: int, b: int = 2)`: Add two numbers. The second may be left out.\n" in prompt
    whole, rows, unknown = answers(server, "tool_help('add')", "tool_help()", "tool_help('ad')")
    assert '"required": ["a"]' in whole
    assert len(rows.splitlines()) == 11
    assert "did you mean 'add'" in unknown


def test_the_prompt_is_bounded_however_many_tools_there_are_and_whatever_they_say() -> None:
    few = McpServer("few", command=[*COMMAND, "--many", "3"])
    many = McpServer("many", command=[*COMMAND, "--many", "200"])
    none = len(prompt_of())
    small, large = prompt_of(few), prompt_of(many)
    assert len(small) < none + 3 * 450 + 300
    assert len(large) < none + MAX_TOLD + 500
    assert "200 functions of many: `tool_0`" in large
    for prompt in (small, large):
        assert not set("\x1b\u202e") & set(prompt)
        assert "\n# System" not in prompt
    assert answers(many, "tool_199()", "len(tool_help()) > 1000") == ["tool_199 was called", True]
    few.close()
    many.close()


def test_only_tools_that_are_allowed_are_there(server: McpServer) -> None:
    allowed = McpServer("own", command=COMMAND, tools=["add", "f*", "read_resource"])
    prompt = prompt_of(allowed)
    assert "`add(" in prompt
    assert "`find_it(" in prompt
    assert "`own_read_resource(" in prompt
    assert "crash" not in prompt
    assert "own_resources" not in prompt
    allowed.close()
    wrong = McpServer("own", command=COMMAND, tools=["ad"])
    with pytest.raises(ConfigError, match=r"mcp.own: the server has no tool 'ad'; it has: add, "):
        RLM(ScriptedModel([]), tools=[wrong]).completion("?")
    wrong.close()


def test_names_that_are_taken_get_that_of_the_server_before_them(server: McpServer) -> None:
    @tool
    def count() -> str:
        """Mine."""
        return "mine"

    other = McpServer("other", command=COMMAND, tools=["add"])
    calls = ("own_add(1)", "other_add(2)", "count()", "list('ab')", "own_slow_")
    found = answers([server, other], *calls[:4], tools=[count], values={"slow": "a value"})
    assert found == [3, 4, "mine", ["a", "b"]]
    other.close()


def test_a_policy_decides_about_them_by_name(server: McpServer) -> None:
    denied, let = answers(server, "variable('HOME')", "add(1)", policy=Policy(deny=["tool:var*"]))
    assert denied == "! the tool 'variable' may not be used here: the policy says no (tool:var*)"
    assert let == 3


def test_a_run_that_goes_on_takes_their_results_from_the_record(tmp_path: Path) -> None:
    log, store = tmp_path / "log", tmp_path / "runs.db"
    made = McpServer("own", command=[*COMMAND, str(log)])
    from recursor import Limits, ModelError

    first = ScriptedModel(["```repl\nfound = [count(), count()]\nprint(found)\n```", ModelError("down")])
    with pytest.raises(ModelError) as caught:
        RLM(first, tools=[made], store=store, limits=Limits(max_turns=5)).completion("?")
    second = ScriptedModel(["```repl\nFINAL([found, count()])\n```"])
    done = RLM(second, tools=[made], store=store).resume(caught.value.run_id or "")
    assert done.answer == [[1, 2], 3]
    assert log.read_text().count("called") == 3
    made.close()


def test_a_session_that_is_made_again_takes_their_results_from_the_record(tmp_path: Path) -> None:
    log, store = tmp_path / "log", tmp_path / "runs.db"
    made = McpServer("own", command=[*COMMAND, str(log)])
    model = ScriptedModel(
        ["```repl\nfirst = count()\nFINAL(first)\n```", "```repl\nFINAL([first, count()])\n```"]
    )
    rlm = RLM(model, tools=[made], store=store)
    with rlm.session() as chat:
        assert chat.completion("?").answer == 1
    with rlm.session(chat.id) as chat:
        assert chat.completion("?").answer == [1, 2]
    assert log.read_text().count("called") == 2
    made.close()


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({}, "a command or a url"),
        ({"command": ["x"], "url": "http://x"}, "a command or a url"),
        ({"command": "x y"}, "list of texts"),
        ({"command": ["x"], "tools": "add"}, "list of texts"),
        ({"url": "ftp://x"}, "http"),
        ({"url": "http://x", "env": {"A": "b"}}, "env"),
        ({"command": ["x"], "headers": {"A": "b"}}, "headers"),
        ({"command": ["x"], "timeout": 0}, "timeout"),
    ],
)
def test_a_server_that_is_described_wrong_is_refused(options: dict[str, Any], why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        McpServer("own", **options)
    with pytest.raises(ConfigError, match="no name"):
        McpServer("my server", command=["x"])


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
SCHEMAS = st.fixed_dictionaries(
    {},
    optional={
        "properties": st.dictionaries(st.text(max_size=8), JSON, max_size=4) | JSON,
        "required": st.lists(st.text(max_size=8), max_size=3) | JSON,
        "pattern": JSON, "$ref": JSON, "type": JSON, "items": JSON, "additionalProperties": JSON,
    },
)  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(schema=SCHEMAS | JSON, args=st.lists(JSON, max_size=3), kwargs=st.dictionaries(st.text(max_size=8), JSON, max_size=3))  # fmt: skip
def test_whatever_a_schema_says_arguments_fit_or_are_refused(
    schema: Any, args: list[Any], kwargs: Any
) -> None:
    arguments = Arguments("f", schema)
    assert len(arguments.signature) < 2_000
    try:
        sent = arguments.bound(args, kwargs)
    except SubcallError:
        return
    assert isinstance(sent, dict)


class Source:
    """What a server may say."""

    def __init__(self, name: str, said: list[tuple[str, str, str]]) -> None:
        self.name = name
        self._said = said

    async def offers(self) -> list[Offer]:
        async def call() -> None:
            """Never called."""

        return [Offer(name, arguments, about, about, call) for name, arguments, about in self._said]


SAID = st.lists(st.tuples(st.text(max_size=100), st.text(max_size=300), st.text(max_size=300)), max_size=30)


@settings(max_examples=100, deadline=None)
@given(one=SAID, two=SAID, repeated=st.integers(1, 40))
def test_whatever_servers_say_names_are_names_and_what_is_told_is_bounded(
    one: Any, two: Any, repeated: int
) -> None:
    tools = asyncio.run(offered([Source("one", one * repeated), Source("two", two)], {"mine": CodeTool("mine", "def mine(): 1")}, ["context", "it"]))  # fmt: skip
    assert len(tools) == 1 + len(one) * repeated + len(two) + bool(one or two)
    for name in tools.keys() - {"mine", "tool_help"}:
        assert name.isidentifier()
        assert not keyword.iskeyword(name)
        assert name not in RESERVED | {"context", "it", "list", "json"}
        assert not name.startswith("_")
    lines = told(tools.values())
    assert sum(map(len, lines)) < MAX_TOLD + 600
    assert all(line.isprintable() for line in lines)


# Elsewhere ------------------------------------------------------------------------------------


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    tmp_path.joinpath("recursor").mkdir()
    return os.environ | {
        "XDG_CONFIG_HOME": str(tmp_path),
        "XDG_STATE_HOME": str(tmp_path),
        "PYTHONWARNINGS": "error",
    }


@pytest.fixture
def ask(tmp_path: Path, environment: dict[str, str]) -> Callable[..., Any]:
    def run(code: str, config: str, **variables: str) -> Any:
        tmp_path.joinpath("recursor", "config.toml").write_text(config)
        with ModelServer([tries(code)]) as models:
            return subprocess.run(
                [sys.executable, "-m", "recursor", "ask", "?", "--model", "m", "--base-url", models.url, "--no-store"],
                capture_output=True, text=True, timeout=60, env=environment | variables, check=False,
            )  # fmt: skip

    return run


def test_servers_of_the_settings_are_there_for_the_command_line(ask: Callable[..., Any]) -> None:
    config = f'[mcp.own]\ncommand = {COMMAND!r}\nenv = {{SERVER_KEY = "MY_KEY"}}\ntools = ["variable"]\n'
    done = ask("variable('SERVER_KEY')", config, MY_KEY="secret-value")
    assert done.returncode == 0, done.stderr
    assert done.stdout == '["secret-value"]\n'
    assert "a server starts" not in done.stderr
    assert "Traceback" not in done.stderr
    missing = ask("1", config)
    assert missing.returncode == 2
    assert "mcp.own needs MY_KEY" in missing.stderr
    unknown = ask("1", '[mcp.own]\ncommnd = ["x"]\n')
    assert unknown.returncode == 2
    assert "did you mean 'command'" in unknown.stderr


async def test_a_server_over_http_is_asked_with_its_token_and_again_when_it_is_back(
    environment: dict[str, str],
) -> None:
    def script(_: Sequence[Message]) -> str:
        return "```repl\nFINAL(len(context))\n```"

    async def serve(port: str) -> tuple[asyncio.subprocess.Process, str]:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "recursor", "mcp", "--http", "--port", port, "--model", "m", "--base-url", models.url,
            "--no-store", stderr=asyncio.subprocess.PIPE, env=environment | {"RECURSOR_MCP_TOKEN": "the-token"},
        )  # fmt: skip
        assert process.stderr is not None
        return process, (await process.stderr.readline()).decode().split()[1]

    with ModelServer(script) as models:
        process, url = await serve("0")
        made = McpServer("other", url=url, headers={"Authorization": "Bearer the-token"}, tools=["ask"])
        call = "ask('How long?', text='abc')"
        try:
            assert await asyncio.to_thread(answers, made, call) == [{"answer": 3}]
            wrong = McpServer("other", url=url, headers={"Authorization": "Bearer wrong"})
            with pytest.raises(ConfigError, match="MCP server 'other'"):
                await asyncio.to_thread(answers, wrong, call)
        finally:
            process.terminate()
            await process.wait()
        process, _ = await serve(url.split(":")[2].partition("/")[0])
        try:
            found = await asyncio.to_thread(answers, made, call, call)
            assert found[-1] == {"answer": 3}
        finally:
            process.terminate()
            await process.wait()
            await asyncio.to_thread(made.close)


def test_without_the_package_a_server_says_what_to_install() -> None:
    code = (
        "import sys, importlib.util as u; real = u.find_spec\n"
        "u.find_spec = lambda name, *rest: None if name == 'mcp' else real(name, *rest)\n"
        "from recursor.mcp import McpServer; McpServer('own', command=['x'])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert "pip install 'recursor[mcp]'" in done.stderr
    light = "import sys, recursor.mcp; print({'mcp', 'pydantic', 'httpx2'} & set(sys.modules))"
    loaded = subprocess.run([sys.executable, "-c", light], capture_output=True, text=True, check=True)
    assert loaded.stdout.strip() == "set()"
