"""The `inspect_ai` package: evaluations whose model is the server."""

from __future__ import annotations

import asyncio
import importlib
from typing import Any

from checks import check, same

inspect: Any = importlib.import_module("inspect_ai")
agent: Any = importlib.import_module("inspect_ai.agent")
dataset: Any = importlib.import_module("inspect_ai.dataset")
models: Any = importlib.import_module("inspect_ai.model")
scorer: Any = importlib.import_module("inspect_ai.scorer")
solver: Any = importlib.import_module("inspect_ai.solver")
tools: Any = importlib.import_module("inspect_ai.tool")


def addition() -> Any:
    async def execute(x: int, y: int) -> str:
        """Add two numbers.

        Args:
            x: one of them.
            y: the other.
        """
        return str(x + y)

    return execute


ADDITION = tools.tool(addition)


def score(question: str, target: str, solvers: Any, model: Any, sandbox: str | None = None) -> None:
    """One sample, which must be right."""
    task = inspect.Task(
        dataset=[dataset.Sample(input=question, target=target)],
        solver=solvers, scorer=scorer.includes(), sandbox=sandbox,
    )  # fmt: skip
    [log] = inspect.eval(task, model=model, log_dir="logs", display="none", max_retries=0)
    same((log.status, str(log.error or "")), ("success", ""))
    [sample] = log.samples
    [value] = [each.value for each in sample.scores.values()]
    same((value, sample.error), ("C", None))


def every(api: str, model: Any) -> None:
    @check(f"{api}: a question with a score")
    def _() -> None:
        score("[plain] What is it?", "42", [solver.generate()], model)

    @check(f"{api}: tools in a solver")
    def _() -> None:
        score("[inspect] How much?", "answer: 5", [solver.use_tools(ADDITION()), solver.generate()], model)

    @check(f"{api}: an agent with bash and submit")
    def _() -> None:
        react = agent.react(tools=[tools.bash(timeout=30)])
        score("[submit] How much?", "5", react, model, "local")

    @check(f"{api}: forced tool, schema and settings")
    def _() -> None:
        config = models.GenerateConfig(
            temperature=0.1, max_tokens=1000, seed=1, top_p=0.9, parallel_tool_calls=False, stop_seqs=["x"],
            reasoning_effort="low",
        )  # fmt: skip

        async def ask() -> Any:
            return await models.get_model(model).generate(
                "[sum] How much?",
                tools=[ADDITION()],
                tool_choice=tools.ToolFunction("addition"),
                config=config,
            )

        done = asyncio.run(ask())
        same(done.choices[0].message.tool_calls[0].function, "addition")


every("chat", "openai-api/recursor/recursor")
every("responses", models.get_model("openai/recursor", responses_api=True))
