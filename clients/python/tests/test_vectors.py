"""The shared vectors: the same verdicts as in every other language."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from semel.exchange import Attempt, Event, Read, Reply, Resumed, Saw
from semel.judge import judge
from semel.table import PRESETS, Judgement, TableError

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


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b'{"success":true}', "success"),
        (b' {"success":false,"success":true}\n', "success"),
        (b'{"success":1}', "no-success"),
        (b'{"success":"true"}', "no-success"),
        (b'{"success":true,"note":"\xff"}', "no-success"),
        (b'{"success":true,"note":"\\ud800"}', "no-success"),
        (b'{"success":true,"note":NaN}', "no-success"),
        (b'{"success":true,"note":1e999}', "no-success"),
        (b'{"success":true,"note":' + b"9" * 5000 + b"}", "no-success"),
        (b'\xef\xbb\xbf{"success":true}', "no-success"),
        ('{"success":true}'.encode("utf-16"), "no-success"),
        (b'{"success":true', "no-success"),
        (b'{"success":true,"note":' + b"[" * 200_000, "no-success"),
    ],
    ids=lambda value: repr(value)[:60],
)
def test_e33_l18_only_json_that_says_so_is_a_success(content: bytes, why: str) -> None:
    event = Attempt(1, 2, Reply(200, (), content))
    assert judge(Judgement.preset("yonne"), "/x", "k", [event], 2).why == why


@pytest.mark.parametrize(
    ("change", "wrong"),
    [
        (lambda table: table["rules"].pop(), "last rule"),
        (lambda table: table["routes"].clear(), "last route"),
        (lambda table: table["rules"][0]["when"].update(status="3xx"), "done needs"),
        (lambda table: table["rules"][-1].update(proves="attempt"), "nothing is proven"),
        (lambda table: table["rules"][0].update(resumable=True), "resumable"),
        (lambda table: table["rules"][0].update(verdict="read"), "otherwise"),
        (lambda table: table["rules"][0]["when"].update(colour="red"), "unknown member"),
        (lambda table: table["rules"][0]["when"].update(member="/a"), "belong together"),
        (lambda table: table["budget"].update(attempts_max=0), "zero"),
        (lambda table: table["budget"].update(pause_max_ms=1), "pause_max_ms"),
        (lambda table: table.pop("budget"), "budget"),
    ],
)
def test_a_table_that_is_none_is_refused(change: Any, wrong: str) -> None:
    table = json.loads((JUDGEMENT / "ietf.json").read_text())
    change(table)
    with pytest.raises(TableError, match=wrong):
        Judgement.parse(json.dumps(table))


@pytest.mark.parametrize(
    ("asked", "at_least_ms"),
    [
        ("2", 2000),
        (" 2 ", 2000),
        ("-2", 0),
        ("2.5", 0),
        ("1234567890", 0),
        ("Thu, 01 Jan 1970 00:00:09 GMT", 5000),
        ("Thu, 01 Jan 1970 00:00:01 GMT", 0),
        ("Thu, 31 Feb 2030 00:00:01 GMT", 0),
        ("Thursday, 01-Jan-70 00:00:09 GMT", 5000),
        ("Thu Jan  1 00:00:09 1970", 5000),
        ("Thu, 01 Jan 1970 00:00:09 +99999999999", 0),
        ("\u0662", 0),
    ],
)
def test_l02_retry_after_is_read_as_it_is_written(asked: str, at_least_ms: int) -> None:
    event = Attempt(3000, 4000, Reply(503, (("retry-after", asked),), b""))
    judged = judge(Judgement.preset("ietf"), "/x", "k", [event], 4000)
    assert (judged.verdict, judged.at_least_ms) == ("retry", at_least_ms)


@pytest.mark.parametrize(
    ("path", "covered"),
    [
        ("/ramp/order", True),
        ("/ramp//./order/", True),
        ("/x/../ramp/%6Frder", True),
        ("/ramp/order/1", False),
        ("/ramp/%", False),
    ],
)
def test_routes_see_one_form_of_a_path(path: str, covered: bool) -> None:
    assert (Judgement.preset("etherfuse").route(path).key_member == "/orderId") == covered
