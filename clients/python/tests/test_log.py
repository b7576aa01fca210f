"""What is logged of an attempt."""

from __future__ import annotations

import logging

import pytest
from world import KEY, RESET, YONNE_OK, World, answer, yonne

from semel.log import ERROR_CHARACTERS_MAX, redacted


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_e34_l16_every_attempt_is_logged_with_six_fields_and_no_secret(
    kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "semel.attempt")
    echo = f'{{"success":false,"error":"Unavailable","message":"key {KEY}\\nforged line"}}\nforged: line'
    with World(RESET, answer(503, echo), answer(200, YONNE_OK), kind=kind) as world:
        intent = yonne()
        world.client().send(intent)
    logged = [record for record in caplog.records if record.name == "semel.attempt"]
    assert len(logged) == 3
    for number, (record, status) in enumerate(zip(logged, ["no response", "503", "200"], strict=True), 1):
        fields = vars(record)
        assert fields["merchant_reference_id"] == "WEB-7"
        assert fields["idempotency_key"] == intent.key
        assert (fields["status"], fields["attempt"]) == (status, number)
        line = record.getMessage()
        assert str(intent.key) in line and "merchant_reference_id=WEB-7" in line and "\n" not in line
        assert all(KEY not in str(value) for value in fields.values()) and KEY not in line
    assert vars(logged[1])["error"] == (
        '{"success":false,"error":"Unavailable","message":"key [redacted]\\nforged line"} forged: line'
    )
    last = vars(logged[2])
    assert (last["order_id"], last["tracking_id"], last["error"], last["proven"]) == ("ORD-1", "YON-TRK-1", "", True)


def test_l16_secrets_are_redacted_and_logs_cannot_be_forged() -> None:
    secrets = ["Bearer sk_live_1234", "x"]
    assert redacted("bad key sk_live_1234\nx", secrets) == "bad key [redacted] x"
    assert redacted("Bearer sk_live_1234", secrets) == "[redacted]"
    long = "a" * (ERROR_CHARACTERS_MAX - 2) + "sk_live_1234"
    assert "sk_" not in redacted(long, secrets)
