"""One user action: its key, its target and its exact bytes, none of which changes afterwards."""

from __future__ import annotations

import hashlib
import json
import re
import secrets
import time
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any

import httpx

from . import jsontext
from .errors import IntentError, KeyRefused
from .table import PRESETS, Judgement, Preset

__all__ = ["Intent", "Key", "is_secret"]

_ATTEMPTS = re.compile(r"(?:^|[^a-z0-9])(?:attempt|retry|try)[-_.:#=]*[0-9]+$")


class Key(str):
    """An idempotency key: 1 to 255 printable ASCII characters.

    One that ends with a number of attempts is refused (L14), since every retry would be another operation; with
    `counted=True` the caller says that the number never changes.
    """

    __slots__ = ()

    BYTES_MAX = 255
    """No key is longer; the limit that most APIs have."""

    def __new__(cls, text: str, *, counted: bool = False) -> Key:
        if not 1 <= len(text) <= cls.BYTES_MAX or not all(" " <= c <= "~" for c in text) or text.strip(" ") != text:
            raise KeyRefused(
                f"a key is 1 to {cls.BYTES_MAX} printable ASCII characters and does not begin or end with a space"
            )
        if not counted and _ATTEMPTS.search(text.lower()):
            raise KeyRefused(
                "the key ends with a number of attempts; every retry would be a new operation. Leave the number off, "
                "and send the same key on every attempt"
            )
        return super().__new__(cls, text)

    @classmethod
    def v7(cls) -> Key:
        """A fresh UUID of version 7: by the time in it an API can tell a late retry. The default."""
        bits = (time.time_ns() // 1_000_000 & (1 << 48) - 1) << 80 | secrets.randbits(80)
        bits = bits & ~(0xF << 76) | 7 << 76
        bits = bits & ~(0b11 << 62) | 0b10 << 62
        return cls(str(uuid.UUID(int=bits)))

    @classmethod
    def v4(cls) -> Key:
        """A fresh random UUID (version 4)."""
        return cls(str(uuid.uuid4()))

    @classmethod
    def derived(cls, own_id: str) -> Key:
        """The key of the caller's own id, the same one every time and in every language: the UUID of version 5 (RFC
        9562) of `own_id` in the namespace that is itself the version 5 of `urn:semel:operation` in that of URLs."""
        return cls(str(uuid.uuid5(uuid.uuid5(uuid.NAMESPACE_URL, "urn:semel:operation"), own_id)))


_SECRETS = ("authorization", "cookie", "token", "secret", "password", "api-key", "apikey", "signature")
_TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_VALUE = re.compile(r"[\t -~]*")


def is_secret(name: str) -> bool:
    """Whether a header by that name holds a secret, and so is the client's and never written down."""
    name = name.lower()
    return name != "idempotency-key" and any(word in name for word in _SECRETS)


def is_header(name: str, value: str) -> bool:
    """Whether this can be sent."""
    return bool(_TOKEN.fullmatch(name)) and bool(_VALUE.fullmatch(value)) and value.strip(" \t") == value


Headers = tuple[tuple[str, str], ...]


@dataclass(frozen=True, init=False)
class Intent:
    """One user action. Everything that is sent for it, on the first attempt and on every other, is in here and is
    fixed; credentials are not, they are the client's. `Intent.post` and `Intent.request` make one."""

    operation: str
    """The caller's own name for it; the key unless another one was given."""
    key: Key
    """Minted when the intent is made, and nowhere else."""
    preset: Preset
    """Whose answers these will be."""
    method: str
    target: str
    headers: Headers
    """Without credentials, names in small letters."""
    content: bytes
    """What is sent, byte for byte."""
    fingerprint: bytes
    """By this, two intents with one operation are the same one; a key that was minted does not count."""
    key_given: bool
    """Whether the caller chose the key: another one for the same operation is a mistake then."""

    CONTENT_BYTES_MAX = 16 << 20
    OPERATION_BYTES_MAX = 255

    def __init__(self) -> None:
        raise TypeError("use Intent.post(...) or Intent.request(...): they mint the key")

    @classmethod
    def post(cls, target: str, **options: Any) -> Intent:
        """A POST to this URL; the options are those of `request`."""
        return cls.request("POST", target, **options)

    @classmethod
    def request(
        cls,
        method: str,
        target: str,
        *,
        json: Any = None,
        content: bytes | None = None,
        content_type: str | None = None,
        headers: Mapping[str, str] | Iterable[tuple[str, str]] = (),
        operation: str | None = None,
        key: str | None = None,
        counted_keys: bool = False,
        preset: Preset = "ietf",
    ) -> Intent:
        """A request with this method, or `IntentError`.

        `json` is a JSON text (str or bytes, sent as it is) or a value that is written once, here; or `content` is any
        bytes with a `content_type`. `operation` is the caller's own name for this action, such as an order's number:
        sent twice, it is one operation (L12). `key` is for callers who keep a key of their own; `counted_keys` takes
        keys that end with a number.
        """
        if not _TOKEN.fullmatch(method):
            raise IntentError(f'"{method}" is no method')
        target, path = _target(target)
        if preset not in PRESETS:
            raise IntentError(f'there is no preset "{preset}", only {", ".join(PRESETS)}')
        route = Judgement.preset(preset).route(path)
        content, content_type = _content(json, content, content_type)
        fixed = _headers(headers, content_type, route.key_header)
        own = None if key is None else Key(key, counted=counted_keys or isinstance(key, Key))
        fingerprint = _fingerprint(method, target, fixed, content)
        if route.key_member is None:
            chosen, key_given = own or Key.v7(), own is not None
        else:
            chosen, key_given, content = _key_in_content(route.key_member, own, counted_keys, preset, content)
        operation = str(chosen) if operation is None else operation
        too_long = len(operation.encode("utf-8", "surrogatepass")) > cls.OPERATION_BYTES_MAX
        if not operation or too_long or not _plain(operation):
            raise IntentError(f"an operation's id is 1 to {cls.OPERATION_BYTES_MAX} bytes without control characters")
        return cls._stored(operation, chosen, preset, method, target, fixed, content, fingerprint, key_given)

    @classmethod
    def _stored(cls, *values: Any) -> Intent:
        """As it was written down before: all members, in order."""
        intent = object.__new__(cls)
        for field, value in zip(fields(cls), values, strict=True):
            object.__setattr__(intent, field.name, value)
        return intent

    @cached_property
    def path(self) -> str:
        """The path of the target, without query."""
        return _path(httpx.URL(self.target))

    def attempt_headers(self) -> list[tuple[str, str]]:
        """The headers of every attempt, without credentials."""
        header = Judgement.preset(self.preset).route(self.path).key_header
        if header is None:
            return list(self.headers)
        # The draft says that the value is a structured-field String, in quotes (section 2.1); the vendors take it bare.
        quoted = '"' + self.key.replace("\\", "\\\\").replace('"', '\\"') + '"'
        return [*self.headers, (header.lower(), quoted if self.preset == "ietf" else str(self.key))]


def _plain(text: str) -> bool:
    return all(c >= " " and not "\x7f" <= c <= "\x9f" and not "\ud800" <= c <= "\udfff" for c in text)


def _path(url: httpx.URL) -> str:
    return url.raw_path.split(b"?", 1)[0].decode("ascii")


def _target(text: str) -> tuple[str, str]:
    """The address in the one form that is sent, and its path."""
    try:
        url = httpx.URL(text)
    except (httpx.InvalidURL, TypeError) as error:
        raise IntentError(f'"{text}" is not an absolute http or https URL') from error
    if url.scheme not in ("http", "https") or not url.host:
        raise IntentError(f'"{text}" is not an absolute http or https URL')
    if url.userinfo:
        raise IntentError("an address must not hold credentials: give them to the client as a secret header")
    url = url.copy_with(fragment=None)
    return str(url), _path(url)


def _content(value: Any, content: bytes | None, content_type: str | None) -> tuple[bytes, str | None]:
    if value is not None and content is not None:
        raise IntentError("give json or content, not both")
    if content is None and value is None:
        content = b""
    elif content is None:
        content_type = content_type or "application/json"
        content = _json(value)
    if len(content) > Intent.CONTENT_BYTES_MAX:
        raise IntentError(f"the content has {len(content)} bytes, more than {Intent.CONTENT_BYTES_MAX}")
    return bytes(content), content_type


def _json(value: Any) -> bytes:
    try:
        if not isinstance(value, (str, bytes)):
            value = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
        return value.encode("utf-8") if isinstance(value, str) else value
    except (ValueError, TypeError, RecursionError) as error:
        raise IntentError(f"the content cannot be written as JSON: {error}") from error


def _headers(
    headers: Mapping[str, str] | Iterable[tuple[str, str]], content_type: str | None, key_header: str | None
) -> Headers:
    pairs = list(headers.items() if isinstance(headers, Mapping) else headers)
    if content_type is not None:
        pairs = [pair for pair in pairs if pair[0].lower() != "content-type"] + [("content-type", content_type)]
    for name, value in pairs:
        if not is_header(name, value) or name.lower() in ("host", "content-length", "transfer-encoding", "connection"):
            raise IntentError(f"the header {name} has a name or value that cannot be sent")
        if is_secret(name):
            raise IntentError(f"{name} is a credential: give it to the client, so that no journal has it")
        if key_header is not None and name.lower() == key_header.lower():
            raise IntentError(f"{name} is where the key is sent; use key=...")
    return tuple((name.lower(), value) for name, value in pairs)


def _key_in_content(
    pointer: str, given: Key | None, counted: bool, preset: Preset, content: bytes
) -> tuple[Key, bool, bytes]:
    """The key that the content names; where it names none, one is minted and put first, every other byte as it was."""
    there_all = jsontext.read(content)
    if not isinstance(there_all, dict):
        raise IntentError(f"this API takes the key as the member {pointer} of a JSON object, and the content is none")
    there = jsontext.at(there_all, pointer)
    name = pointer[1:]
    # A member deeper down, or one that is not an id that a client may choose, must be there already.
    mintable = there is jsontext.NOTHING and "/" not in name and preset == "etherfuse"
    if not mintable and (not isinstance(there, str) or (given is not None and given != there)):
        raise IntentError(f"the content's member {pointer} is not a text, or not the key that was given")
    if not mintable:
        return Key(there, counted=counted), True, content
    # E12: version 4.
    key = given or Key.v4()
    member = json.dumps(name) + ":" + json.dumps(str(key)) + ("," if there_all else "")
    opening = content.index(b"{") + 1
    return key, given is not None, content[:opening] + member.encode("ascii") + content[opening:]


def _fingerprint(method: str, target: str, headers: Headers, content: bytes) -> bytes:
    digest = hashlib.sha256()
    parts = [method, target, *(text for pair in sorted(headers) for text in pair)]
    for part in [*(part.encode() for part in parts), content]:
        digest.update(len(part).to_bytes(8, "little") + part)
    return digest.digest()
