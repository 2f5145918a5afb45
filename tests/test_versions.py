"""What versions of Python do differently: the REPL, tools and schemas stay the same.

The file has no `from __future__ import annotations`: it is about annotations that are evaluated.
"""

import dataclasses
import errno
import sys
from typing import Any

import pytest

from conftest import Bench
from recursor import tools
from recursor.errors import ConfigError, SubcallError
from recursor.schema import shape
from recursor.tools import Tool
from recursor.types import LlmQuery

LATE = ["'NotThere'", *(["NotThere", "not_there.Kind"] if sys.version_info >= (3, 14) else [])]
"""Annotations that have no value, in the ways in which a function may have them."""


def made(annotation: str) -> Tool:
    names: dict[str, Any] = {}
    exec(f"def look(name: {annotation}, count: int = 1) -> {annotation}: return [name, count]", names)
    found = tools.collect([names["look"]])["look"]
    assert isinstance(found, Tool)
    return found


@pytest.mark.parametrize("annotation", LATE)
async def test_a_tool_may_have_annotations_that_name_what_is_not_there(annotation: str) -> None:
    tool = made(annotation)
    written = annotation.strip("'")
    assert tool.told.replace(f"'{written}'", written).startswith(f"`look(name: {written}, count: ")
    assert await tool.call(["a"], {"count": 2}) == ["a", 2]
    with pytest.raises(SubcallError, match="look: missing a required argument: 'name'"):
        await tool.call([], {})


def test_a_type_that_names_what_is_not_there_is_no_schema() -> None:
    late = dataclasses.make_dataclass("Late", [("value", "NotThere")])
    with pytest.raises(ConfigError, match=r"neither a JSON Schema nor a type with one \(.*NotThere"):
        shape(late)


async def test_annotations_of_a_block_are_no_variables_of_it(bench: Bench) -> None:
    execution = await bench.run("count: int = 1\nname: str\nif count: late: int = 2\nprint(SHOW_VARS())")
    assert execution.error is None
    assert execution.output.head == "count: int\nlate: int\n"
    assert [each.name for each in execution.variables] == ["count", "late"]


async def test_a_module_that_is_not_there_is_said_to_be_not_there_and_no_more(bench: Bench) -> None:
    execution = await bench.run("import not_there_at_all")
    assert execution.error is not None
    assert execution.error.endswith("\nModuleNotFoundError: No module named 'not_there_at_all'")


async def test_cloning_a_file_fails_as_it_does_where_file_systems_cannot(isolated: Bench) -> None:
    code = """import errno, fcntl
with open("/tmp/a", "w") as a, open("/tmp/b", "w") as b:
    try: fcntl.ioctl(b, 0x40049409, a.fileno())
    except OSError as error: print(error.errno)"""
    assert await isolated.shown(code) == f"{errno.EOPNOTSUPP}\n"


@pytest.mark.parametrize(
    "made",
    ["types.MappingProxyType({'a': 1})", *(["frozendict(a=1)"] if sys.version_info >= (3, 15) else [])],
)
async def test_a_mapping_that_is_no_dict_is_told_how_to_become_one(bench: Bench, made: str) -> None:
    execution = await bench.run(f"import types\nFINAL({made})")
    assert execution.error is not None
    assert execution.error.endswith("for instance with dict(value)")
    assert await bench.answered(f"FINAL(dict({made}))") == {"a": 1}


if sys.version_info >= (3, 12):
    TYPES = {
        "Name": {"anyOf": [{"type": "integer"}, {"type": "string"}]},
        "list[Name]": {"type": "array", "items": {"anyOf": [{"type": "integer"}, {"type": "string"}]}},
        "Pair[int]": {
            "type": "object",
            "additionalProperties": {"type": "array", "items": {"type": "integer"}},
        },
    }

    async def test_names_that_the_type_statement_gives_are_schemas_of_sub_calls(bench: Bench) -> None:
        await bench.shown("type Name = int | str\ntype Pair[T] = dict[str, list[T]]")
        for written in TYPES:
            await bench.shown(f"llm_query('q', schema={written})")
        asked = [call.schema for call in bench.host.calls if isinstance(call, LlmQuery)]
        assert asked == list(TYPES.values())

    async def test_a_name_that_is_part_of_itself_is_no_schema(bench: Bench) -> None:
        execution = await bench.run("type Tree = dict[str, Tree]\nllm_query('q', schema=Tree)")
        assert execution.error is not None
        assert "schema: Tree is part of itself" in execution.error
        assert bench.host.calls == []


if sys.version_info >= (3, 14):

    @pytest.mark.parametrize("schema", ["Node", "list[Leaf]", "Kind"])
    async def test_classes_whose_annotations_come_later_are_schemas_of_sub_calls(
        isolated: Bench, schema: str
    ) -> None:
        code = f"""import dataclasses, typing
@dataclasses.dataclass
class Node:
    leaves: list[Leaf]
class Leaf(typing.TypedDict):
    name: str
class Kind(typing.TypedDict):
    of: Leaf
llm_query("q", schema={schema})"""
        await isolated.shown(code)
        assert '"name": {"type": "string"}' in str(isolated.host.calls[0]).replace("'", '"')

    async def test_a_path_is_copied_and_moved_in_the_sandbox(isolated: Bench) -> None:
        code = """from pathlib import Path
one = Path("/tmp/one")
one.write_text("text")
one.copy("/tmp/two").move("/tmp/three")
print(sorted(path.name for path in Path("/tmp").iterdir()), Path("/tmp/three").read_text())"""
        assert await isolated.shown(code) == "['one', 'three'] text\n"


if sys.version_info >= (3, 15):

    async def test_a_lazy_import_is_told_of_and_is_not_made_by_that(bench: Bench) -> None:
        shown = await bench.shown(
            "import sys\nsys.modules.pop('this', None)\nlazy import this\nprint(SHOW_VARS())"
        )
        assert "this: lazy_import" in shown
        assert await bench.shown("print('this' in sys.modules)") == "False\n"
        assert "Beautiful is better" in await bench.shown("print(this.__name__)")
