"""Keys and intents: fixed, refused where they cannot be sent, and never a place for secrets."""

from __future__ import annotations

import dataclasses
import uuid

import pytest
from world import payment

from semel import Intent, IntentError, Key, KeyRefused
from semel.table import PRESETS


@pytest.mark.parametrize(
    "text", ["order-7-attempt-2", "order-7-Attempt2", "x_retry_3", "a.try.1", "attempt-1", "o:attempt:12"]
)
def test_l14_q1_a_key_that_counts_attempts_is_refused(text: str) -> None:
    with pytest.raises(KeyRefused, match="number of attempts"):
        Key(text)
    with pytest.raises(KeyRefused):
        payment(key=text)
    assert Key(text, counted=True) == text
    assert payment(key=text, counted_keys=True).key == text


@pytest.mark.parametrize(
    "text", ["order-7", "country-7", "entry9", "attempt", "order-7-attempts", "reattempt-3", "2", "a-7-retry"]
)
def test_l14_other_numbers_are_taken(text: str) -> None:
    assert Key(text) == text


@pytest.mark.parametrize("text", ["", " k", "k ", "k\n", "kä", "k" * 256])
def test_a_key_has_a_form(text: str) -> None:
    with pytest.raises(KeyRefused, match="printable"):
        Key(text)


def test_e12_keys_that_are_minted() -> None:
    assert [uuid.UUID(key).version for key in (Key.v4(), Key.derived("order-7"))] == [4, 5]
    v7 = uuid.UUID(Key.v7())
    assert (v7.int >> 76 & 0xF, v7.variant) == (7, uuid.RFC_4122)
    assert len({Key.v7() for _ in range(1000)} | {Key.v4() for _ in range(1000)}) == 2000
    # The documented derivation, as every other language computes it.
    assert Key.derived("order-7") == "cdd80cc9-7962-524f-a2e1-a0a5c9ab9e88"


def test_e5_q1_the_key_of_an_intent_cannot_be_changed() -> None:
    intent = payment()
    with pytest.raises(dataclasses.FrozenInstanceError):
        intent.key = Key.v7()  # type: ignore[misc]
    with pytest.raises(TypeError):
        dataclasses.replace(intent, key=Key.v7())
    with pytest.raises(TypeError, match="mint"):
        Intent()


def test_e2_the_key_of_a_create_is_in_its_content() -> None:
    def order(content: str, **options: str) -> Intent:
        return Intent.post("https://api.example/ramp/order", preset="etherfuse", json=content, **options)

    minted = order(' {"quoteId":"q"}')
    assert minted.content.decode() == f' {{"orderId":"{minted.key}","quoteId":"q"}}'
    assert "idempotency-key" not in dict(minted.attempt_headers())
    empty = order("{}")
    assert empty.content.decode() == f'{{"orderId":"{empty.key}"}}'
    given = order('{"orderId":"o-1"}')
    assert (given.key, given.content, given.key_given) == ("o-1", b'{"orderId":"o-1"}', True)
    for wrong, why in [("[]", "JSON object"), ('{"orderId":7}', "not a text"), ("{", "JSON object")]:
        with pytest.raises(IntentError, match=why):
            order(wrong)
    with pytest.raises(IntentError, match="not the key"):
        order('{"orderId":"o-1"}', key="o-2")
    with pytest.raises(KeyRefused):
        order('{"orderId":"o-attempt-2"}')


def test_q25_the_draft_quotes_its_keys_and_the_vendors_do_not() -> None:
    for preset in PRESETS:
        intent = Intent.post("http://api.example/x", preset=preset, key='a"b', json="{}")
        sent = dict(intent.attempt_headers())["idempotency-key"]
        assert sent == (r'"a\"b"' if preset == "ietf" else 'a"b')


def test_l16_secrets_are_not_an_intents() -> None:
    for header in ["Authorization", "X-API-Key", "Cookie", "X-Auth-Token"]:
        with pytest.raises(IntentError, match="credential"):
            payment(headers={header: "s"})
    with pytest.raises(IntentError, match="where the key is sent"):
        payment(headers={"Idempotency-Key": "k"})
    with pytest.raises(IntentError, match="credentials"):
        payment(target="https://user:s3cret@api.example/")


@pytest.mark.parametrize("target", ["", "/orders", "api.example", "ftp://api.example/", "http:///x", "http://"])
def test_a_target_that_is_none_is_refused(target: str) -> None:
    with pytest.raises(IntentError, match="absolute"):
        payment(target=target)


def test_what_cannot_be_sent_is_refused() -> None:
    for options in [
        {"operation": ""},
        {"operation": "a\nb"},
        {"operation": "o" * 256},
        {"json": b" " * (Intent.CONTENT_BYTES_MAX + 1)},
        {"json": {"amount": float("nan")}},
        {"json": {"at": object()}},
        {"headers": {"a b": "c"}},
        {"headers": {"a": "b\r\nc: d"}},
        {"headers": {"Content-Length": "3"}},
        {"preset": "nobody"},
        {"content": b"x"},
    ]:
        with pytest.raises(IntentError):
            payment(**options)


def test_e5_a_value_is_written_once_and_bytes_are_sent_as_they_are() -> None:
    value = {"amount": 7, "to": "Søren"}
    intent = payment(json=value)
    value["amount"] = 8
    assert intent.content == '{"amount":7,"to":"Søren"}'.encode()
    assert ("content-type", "application/json") in intent.headers
    odd = b"\xff {\n"
    intent = payment(json=None, content=odd, content_type="application/octet-stream")
    assert intent.content == odd
    assert Intent.post("https://api.example/x#part").target == "https://api.example/x"
