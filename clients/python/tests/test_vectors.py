"""The shared vectors: the same verdicts as in every other language."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from semel.exchange import Attempt, Event, Read, Reply, Resumed, Saw
from semel.judge import judge
from semel.table import PRESETS, Judgement

JUDGEMENT = Path(__file__).parents[3] / "crates/semel-core/judgement"
VECTORS = [vector for preset in PRESETS for vector in json.loads((JUDGEMENT / f"vectors/{preset}.json").read_text())]


def saw(event: dict[str, Any]) -> Saw:
    if "failure" in event:
        return event["failure"]
    headers = tuple((name.lower(), value) for name, value in event.get("headers", {}).items())
    return Reply(event["status"], headers, event.get("content", "").encode())


def event_of(event: dict[str, Any]) -> Event:
    act, at_ms = event.get("act", "attempt"), event["at_ms"]
    if act == "resumed":
        return Resumed(at_ms)
    return {"attempt": Attempt, "read": Read}[act](at_ms, event.get("end_ms", at_ms), saw(event))


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: f"{vector['preset']}: {vector['name']}")
def test_e30_e31_l02_l03_shared_vectors(vector: dict[str, Any]) -> None:
    table = Judgement.preset(vector["preset"]).with_budget(**vector.get("budget", {}))
    history = [event_of(event) for event in vector["history"]]
    judged = judge(table, vector["path"], vector["key"], history, vector["now_ms"])
    got = {
        name: getattr(judged, name)
        for name in ("verdict", "why", "open", "outcome", "resumable", "path", "at_least_ms", "at_most_ms")
        if getattr(judged, name) is not None
    }
    expected = dict(vector["expect"])
    assert got == expected


def test_every_file_of_vectors_is_run() -> None:
    assert {path.stem for path in (JUDGEMENT / "vectors").glob("*.json")} == set(PRESETS)
    assert len(VECTORS) >= 371


@pytest.mark.parametrize("preset", PRESETS)
def test_tables_are_those_of_the_core(preset: str) -> None:
    copy = Path(__file__).parents[1] / f"src/semel/judgement/{preset}.json"
    assert copy.read_bytes() == (JUDGEMENT / f"{preset}.json").read_bytes()
