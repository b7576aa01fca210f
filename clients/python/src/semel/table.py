"""The judgement tables: what the answers of one API mean, as data that every client library reads.

The members are described in `crates/semel-core/judgement/README.md`; the files are copied from there.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from importlib.resources import files
from typing import Any, Literal, get_args
from urllib.parse import quote

from . import jsontext, paths
from .exchange import Reply, Saw, trimmed

__all__ = ["PRESETS", "Budget", "Conclusion", "Judgement", "Preset", "Route", "TableError"]

Preset = Literal["ietf", "stripe", "etherfuse", "credicorp", "yonne", "nora"]
"""The APIs whose answers are known."""

PRESETS: tuple[Preset, ...] = get_args(Preset)

_SIMPLE = ("retry", "rejected", "undecided")


class TableError(ValueError):
    """Why a table is not one."""


@dataclass(frozen=True)
class Budget:
    """How long and how often a client goes on. All times in milliseconds."""

    attempts_max: int
    """Attempts in one run: from a send or a resumption to its verdict."""
    elapsed_max_ms: int
    """How long one run may last."""
    attempt_max_ms: int
    """How long one exchange may last."""
    pause_base_ms: int
    """The pause after the first attempt is at most this, after the second twice as much, and so on."""
    pause_max_ms: int
    """No pause is longer, unless the API asks for one that is."""
    window_ms: int | None
    """How long the API remembers a key; None where an id stays taken for as long as the resource exists."""
    margin_ms: int
    """How long before the end of that window the last attempt may begin."""


@dataclass(frozen=True)
class Route:
    """What a path of the API does with keys."""

    path: str
    key_header: str | None
    """The request header that the key goes into; None where it is a member of the content."""
    key_member: str | None
    """The JSON Pointer to that member."""
    read_path: str | None
    """The own resource, with `{key}` in it, if the API has one."""
    read_id: str | None
    """The JSON Pointer at which that shows the key."""

    def resource(self, key: str) -> str | None:
        """The path of the resource that this key names, if the API has one."""
        return None if self.read_path is None else self.read_path.replace("{key}", quote(key, safe="-._~"))

    def shows(self, content: bytes, key: str) -> bool:
        """Whether this content shows the resource with this id."""
        if self.read_id is None:
            return False
        shown = jsontext.at(jsontext.read(content), self.read_id)
        return isinstance(shown, str) and shown == key


@dataclass(frozen=True)
class Conclusion:
    """What follows from a rule."""

    verdict: str
    proves: str
    why: str
    say: str
    resumable: bool | None
    otherwise: Conclusion | None


@dataclass(frozen=True)
class _When:
    """Conditions on what an attempt saw; all that are set must hold."""

    failure: str | None
    status: tuple[str, ...] | None
    code: tuple[str, ...] | None
    text: tuple[str, ...] | None
    member: str | None
    value: str | bool | None
    header: tuple[tuple[str, str], ...] | None
    retryable: bool | None
    open: bool | None

    def asks_nothing(self) -> bool:
        """Whether it holds whatever was seen."""
        asked = (self.failure, self.status, self.code, self.text, self.member, self.header, self.retryable)
        return all(condition is None for condition in asked)

    def holds(self, saw: Saw, is_open: bool) -> bool:
        if self.open is not None and self.open != is_open:
            return False
        if isinstance(saw, Reply):
            return self.failure is None and self._holds_for(saw)
        return self.failure == saw or self.asks_nothing()

    def _holds_for(self, reply: Reply) -> bool:
        content = jsontext.read(reply.content)
        if self.status is not None and not any(_in_class(reply.status, status) for status in self.status):
            return False
        if self.code is not None:
            code = reply.field("idempotency-problem")
            if code is None:
                code = jsontext.at(content, "/code") if isinstance(content, dict) else None
            if not 400 <= reply.status <= 599 or not isinstance(code, str) or code not in self.code:
                return False
        if self.text is not None and _words(reply.content, content) not in self.text:
            return False
        # By type, too: to Python 1 is True.
        if self.member is not None and not _same(jsontext.at(content, self.member), self.value):
            return False
        for name, wanted in self.header or ():
            value = reply.field(name)
            if value is None or (wanted != "*" and value.lower() != wanted.lower()):
                return False
        return self.retryable is None or _same(jsontext.at(content, "/retryable"), self.retryable)


def _same(found: Any, wanted: str | bool | None) -> bool:
    return type(found) is type(wanted) and bool(found == wanted)


def _in_class(status: int, wanted: str) -> bool:
    return str(status) == wanted or (wanted.endswith("xx") and str(status // 100) == wanted[0])


def _words(content: bytes, value: Any) -> str | None:
    """What a content says in words: a JSON string, the member `error` of an object, or else all of it."""
    if isinstance(value, str):
        return trimmed(value)
    if isinstance(value, dict):
        error = value.get("error")
        return trimmed(error) if isinstance(error, str) else None
    try:
        return trimmed(content.decode("utf-8"))
    except UnicodeDecodeError:
        return None


@dataclass(frozen=True)
class _Rule:
    when: _When
    then: Conclusion


@dataclass(frozen=True)
class Judgement:
    """What the answers of one API mean. Valid by construction: `preset` and `parse` make one."""

    name: str
    doc: str
    routes: tuple[Route, ...]
    budget: Budget
    replayed: tuple[_When, ...]
    log: Mapping[str, tuple[str, ...]]
    """Pointers to what every attempt logs: `reference` in the request, `order_id` and `tracking_id` in the response."""
    rules: tuple[_Rule, ...]

    @staticmethod
    @cache
    def preset(preset: Preset) -> Judgement:
        """The table of a preset."""
        if preset not in PRESETS:
            raise TableError(f'there is no preset "{preset}", only {", ".join(PRESETS)}')
        return Judgement.parse(files(__package__).joinpath("judgement", f"{preset}.json").read_text("utf-8"))

    @staticmethod
    def parse(text: str) -> Judgement:
        """Reads a table, or raises `TableError`."""
        try:
            return _table(json.loads(text))
        except TableError:
            raise
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise TableError(f"not a judgement table: {error!r}") from error

    def with_budget(self, **changes: int | None) -> Judgement:
        """The same with other members of the budget."""
        return replace(self, budget=replace(self.budget, **changes))  # type: ignore[arg-type]

    def route(self, path: str) -> Route:
        """What the API does with keys on this path (without query)."""
        path = paths.normalised(path)
        return next(route for route in self.routes if paths.matches(route.path, path))

    def rule(self, saw: Saw, is_open: bool) -> Conclusion:
        """What follows from what an attempt saw."""
        return next(rule.then for rule in self.rules if rule.when.holds(saw, is_open))

    def is_replay(self, saw: Saw) -> bool:
        """Whether an answer says that it is a replay."""
        return any(when.holds(saw, False) for when in self.replayed)


def _only(members: Mapping[str, Any], known: str) -> None:
    for name in members:
        if name not in known.split():
            raise TableError(f'unknown member "{name}"')


def _table(source: Mapping[str, Any]) -> Judgement:
    _only(source, "preset doc routes budget replayed log rules")
    budget = Budget(**source["budget"])
    if min(budget.attempts_max, budget.elapsed_max_ms, budget.attempt_max_ms, budget.pause_base_ms) <= 0:
        raise TableError("no budget may be zero")
    if budget.pause_max_ms < budget.pause_base_ms:
        raise TableError("pause_max_ms must not be less than pause_base_ms")
    routes = tuple(_route(route) for route in source["routes"])
    rules = tuple(_rule(rule) for rule in source["rules"])
    if not rules or not rules[-1].when.asks_nothing() or rules[-1].when.open is not None:
        raise TableError("the last rule must match everything")
    if not routes or routes[-1].path != "/*":
        raise TableError("the last route must match every path")
    log = {name: tuple(source["log"][name]) for name in ("reference", "order_id", "tracking_id")}
    replayed = tuple(_when(when) for when in source["replayed"])
    return Judgement(source["preset"], source["doc"], routes, budget, replayed, log, rules)


def _route(source: Mapping[str, Any]) -> Route:
    _only(source, "path key read")
    _only(source["key"], "header member")
    if len(source["key"]) != 1:
        raise TableError("a key is in a header or in a member")
    read = source.get("read")
    # The key goes into the address of the caller's own API and nowhere else.
    if read is not None and (not read["path"].startswith("/") or read["path"].startswith("//")):
        raise TableError("the path of a read must start with one slash")
    read_path, read_id = (None, None) if read is None else (read["path"], read["id"])
    return Route(source["path"], source["key"].get("header"), source["key"].get("member"), read_path, read_id)


def _when(source: Mapping[str, Any]) -> _When:
    _only(source, "failure status code text member is header retryable open")
    if ("member" in source) != ("is" in source):
        raise TableError("member and is belong together")
    if not isinstance(source.get("is", ""), (str, bool)):
        raise TableError("is must be a text or a truth value")
    if source.get("failure") not in (None, "not-sent", "no-response"):
        raise TableError(f'unknown failure "{source["failure"]}"')
    header = source.get("header")
    return _When(
        failure=source.get("failure"),
        status=_several(source.get("status")),
        code=_several(source.get("code")),
        text=_several(source.get("text")),
        member=source.get("member"),
        value=source.get("is"),
        header=None if header is None else tuple(header.items()),
        retryable=source.get("retryable"),
        open=source.get("open"),
    )


def _several(source: str | list[str] | None) -> tuple[str, ...] | None:
    if source is None:
        return None
    return (source,) if isinstance(source, str) else tuple(source)


def _rule(source: Mapping[str, Any]) -> _Rule:
    _only(source, "when verdict why say rows proves resumable otherwise")
    when, why, verdict = _when(source["when"]), source["why"], source["verdict"]
    then = _conclusion(source)
    if not source["rows"]:
        raise TableError(f'rule "{why}": rows must name what demands it')
    if verdict == "done" and (when.status is None or any(status[0] != "2" for status in when.status)):
        raise TableError(f'rule "{why}": done needs a status of success')
    if when.failure == "not-sent":
        if then.proves != "attempt":
            raise TableError(f'rule "{why}": what was not sent proves itself')
    elif when.code is None and when.status is None and then.proves != "nothing":
        raise TableError(f'rule "{why}": nothing is proven by a response that is not there')
    return _Rule(when, then)


def _conclusion(source: Mapping[str, Any], nested: bool = False) -> Conclusion:
    why, verdict, proves = source["why"], source["verdict"], source.get("proves", "nothing")
    if verdict not in (_SIMPLE if nested else (*_SIMPLE, "done", "read")):
        raise TableError(f'rule "{why}": verdict "{verdict}" cannot stand here')
    if proves not in ("nothing", "attempt", "key"):
        raise TableError(f'rule "{why}": unknown proof "{proves}"')
    if (verdict == "rejected") != isinstance(source.get("resumable"), bool):
        raise TableError(f'rule "{why}": rejected, and nothing else, must say whether it is resumable')
    if (verdict == "read") != ("otherwise" in source):
        raise TableError(f'rule "{why}": read, and nothing else, needs otherwise')
    otherwise = _conclusion(source["otherwise"], nested=True) if verdict == "read" else None
    return Conclusion(verdict, proves, why, source["say"], source.get("resumable"), otherwise)
