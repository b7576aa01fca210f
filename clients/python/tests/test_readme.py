"""The examples of the README run."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import Any

import pytest
from world import YONNE_OK, World, answer

import semel.client

README = (Path(__file__).parents[1] / "README.md").read_text("utf-8")


def example(name: str) -> Any:
    """The function of this name, as the README has it."""
    blocks = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    (block,) = [block for block in blocks if f"def {name}(" in block]
    namespace: dict[str, Any] = {}
    exec(compile(block, f"README.md: {name}", "exec"), namespace)
    return namespace[name]


def test_e43_the_first_example(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with World(answer(402), answer(200, YONNE_OK)) as world:
        monkeypatch.setattr(semel.client, "LimitedTransport", lambda: world.api)
        order = example("order")
        assert order("WEB-100245", "k1").endswith("Top up, then resume. It can be resumed.")
        assert order("WEB-100245", "k1") == order("WEB-100245", "k1") == f"ordered: {YONNE_OK}"
        world.one_key()
    assert len(README[: README.index("```\n\nNot published")].splitlines()) < 40, "it fits on one screen"


def test_the_example_of_asyncio(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with World(answer(201, "{}"), kind="async") as world:
        monkeypatch.setattr(semel.client.httpx, "AsyncHTTPTransport", lambda **_: world.api)
        assert asyncio.run(example("pay")(7, "payment-7")).happened


def test_l12_l14_an_agent_that_plans_again_pays_one_time() -> None:
    with World(answer(201, "paid"), answer(409, '{"code":"outcome-unknown"}')) as world:
        client = world.client().client
        pay = example("pay_tool")
        for _ in range(3):
            assert pay(client, "call_1", {"amount": 7}) == {"status": "paid", "reply": "paid"}
        assert len(world.api.seen) == 1
        assert pay(client, "call_2", {"amount": 7})["status"] == "unknown"


def test_the_examples_for_requests_and_stripe() -> None:
    with World(answer(201, '{"id":"p"}'), answer(200, "{}"), answer(400)) as world:
        client = world.client().client
        assert example("create")(client, "https://api.example/p", "p-1", {"a": 1}) == {"id": "p"}
        assert example("charge")(client, "7", 1999).happened
        assert world.api.seen[1].content == b"amount=1999&currency=eur&metadata%5Border%5D=7"
        with pytest.raises(RuntimeError, match="refused"):
            example("create")(client, "https://api.example/p", "p-2", {"a": 1})
