"""One key, one content, and an outcome always; by both clients."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from world import (
    BREAK_OFF,
    HANG,
    KEY,
    ORDER,
    REFUSE,
    RESET,
    YONNE_OK,
    Step,
    World,
    answer,
    etherfuse,
    payment,
    yonne,
)

from semel import (
    AlreadyExists,
    AnotherKey,
    Edited,
    Fresh,
    Key,
    KeyTaken,
    NoSuchOperation,
    OtherCredentials,
    Rejected,
    Replayed,
    SendError,
    Unresolved,
)
from semel.table import PRESETS

EXISTS = "An order with this transaction ID already exists"
GUARD = "A pending onramp order already exists for this bank account and amount"


@pytest.fixture(params=["sync", "async"])
def kind(request: Any) -> str:
    return request.param


def test_a_success_is_fresh(kind: str) -> None:
    with World(answer(201, '{"id":"p"}'), kind=kind) as world:
        outcome = world.client().send(payment())
        assert isinstance(outcome, Fresh)
        assert (outcome.reply.status, outcome.reply.json()) == (201, {"id": "p"})
        assert world.api.asked_for_policy == 0, "what succeeds at once asks for nothing else"
        assert world.api.seen[0].headers["x-api-key"] == KEY
        assert world.api.seen[0].content == b'{"amount": 7}'


def test_e6_e24_e30_l02_the_same_key_until_it_is_known(kind: str) -> None:
    in_flight = answer(409, '{"code":"in-flight"}', retry_after="3")
    steps = (REFUSE, RESET, HANG, BREAK_OFF, answer(500), in_flight, answer(201, "{}"))
    with World(*steps, kind=kind) as world:
        assert isinstance(world.client().send(payment()), Fresh)
        world.one_key()
        assert len(world.api.attempts()) == 7
        # Doubling pauses at the dice's most; Retry-After before the sixth pause.
        assert world.still.slept == [500, 1000, 2000, 4000, 8000, 3000 + 16_000]


def test_l02_full_jitter_may_be_nothing_but_not_less_than_asked_for(kind: str) -> None:
    with World(RESET, answer(503, retry_after="2"), answer(200), kind=kind, high=False) as world:
        world.client().send(payment())
        assert world.still.slept == [0, 2000]


@pytest.mark.parametrize(
    "replay",
    [answer(200, YONNE_OK, idempotent_replayed="true"), answer(200, '{"success":true,"idempotent_replay":true}')],
)
def test_l15_e26_e27_a_replay_is_told_as_one(kind: str, replay: Step) -> None:
    with World(RESET, replay, kind=kind) as world:
        assert isinstance(world.client().send(yonne()), Replayed)
        world.one_key()


@pytest.mark.parametrize(
    ("status", "content", "why", "resumable"),
    [
        (400, '{"success":false,"error":"Missing coordinates"}', "refused", False),
        (401, '{"success":false,"error":"Unauthorized"}', "unauthorized", True),
        (403, "", "unauthorized", True),
        (422, '{"code":"key-reused"}', "key-reused", False),
    ],
)
def test_e31_q3_l03_what_must_be_mended_is_not_retried(
    kind: str, status: int, content: str, why: str, resumable: bool
) -> None:
    with World(answer(status, content), kind=kind) as world:
        outcome = world.client().send(yonne())
        assert isinstance(outcome, Rejected)
        assert (outcome.why, outcome.resumable) == (why, resumable)
        assert outcome.reply is not None and outcome.reply.status == status
        assert len(world.api.seen) == 1


@pytest.mark.parametrize(
    ("status", "error", "why"),
    [(402, "Insufficient Funds", "insufficient-funds"), (422, "ERR_NO_CAPACITY_AVAILABLE", "no-capacity")],
)
def test_q2_l04_top_up_then_resume_with_the_same_key(kind: str, status: int, error: str, why: str) -> None:
    with World(answer(status, f'{{"success":false,"error":"{error}"}}'), kind=kind) as world:
        client = world.client()
        outcome = client.send(yonne())
        assert isinstance(outcome, Rejected) and (outcome.why, outcome.resumable) == (why, True)
        assert client.resume() == {}, "not by itself"
        world.then(answer(200, YONNE_OK))
        assert isinstance(client.resume_operation("order-7"), Fresh)
        world.one_key()


def test_e3_e7_e8_l05_l07_a_conflict_about_the_own_id_is_looked_up(kind: str) -> None:
    order = answer(200, f'{{"orderId":"{ORDER}","status":"created"}}')
    with World(RESET, answer(409, EXISTS), answer(503), order, kind=kind) as world:
        outcome = world.client().send(etherfuse())
        assert isinstance(outcome, AlreadyExists)
        assert outcome.path == f"/ramp/order/{ORDER}"
        assert outcome.reply.json()["status"] == "created"
        world.one_key()
        read = world.api.seen[2]
        assert (read.method, read.path, read.headers["x-api-key"]) == ("GET", outcome.path, KEY)


def test_q7_l06_a_guards_conflict_is_no_success_and_its_404_no_order(kind: str) -> None:
    with World(answer(409, GUARD), answer(404, '{"error":"Order not found"}'), kind=kind) as world:
        outcome = world.client().send(etherfuse())
        assert isinstance(outcome, Rejected) and (outcome.why, outcome.resumable) == ("guard-held", True)
        # The guard's words, not those of the look-up.
        assert outcome.reply is not None and outcome.reply.content.decode() == GUARD


def test_q10_exists_but_not_to_be_seen_is_still_running(kind: str) -> None:
    order = answer(200, f'{{"orderId":"{ORDER}"}}')
    with World(HANG, answer(409, EXISTS), answer(404, "{}"), answer(409, EXISTS), order, kind=kind) as world:
        assert isinstance(world.client().send(etherfuse()), AlreadyExists)
        world.one_key()


def test_l08_an_unknown_outcome_is_not_retried_and_stays_open(kind: str) -> None:
    with World(answer(409, '{"code":"outcome-unknown"}'), kind=kind) as world:
        client = world.client()
        outcome = client.send(payment())
        assert isinstance(outcome, Unresolved) and outcome.why == "outcome-unknown"
        assert client.journal.operations()[0].state == "unresolved"
        # Asked again only when somebody asks; by then an operator has settled it.
        world.then(answer(201, idempotent_replayed="true"))
        assert isinstance(client.resume()["payment-7"], Replayed)
        world.one_key()


def test_l10_the_budget_ends_and_the_operation_is_open_not_failed(kind: str) -> None:
    with World(RESET, RESET, kind=kind) as world:
        client = world.client(attempts_max=2)
        intent = payment()
        outcome = client.send(intent)
        assert isinstance(outcome, Unresolved) and outcome.why == "attempts-over"
        # A fresh intent for the same action keeps the key of the first.
        world.then(answer(201, "{}"))
        again = payment()
        assert again.key != intent.key
        assert isinstance(client.send(again), Fresh)
        world.one_key()


def test_l10_nothing_is_sent_after_the_published_window(kind: str) -> None:
    with World(RESET, kind=kind) as world:
        world.api.published = """{"version":1,"routes":[{"path":"/*","methods":["POST"],
            "retry":{"on_expired":"execute"},
            "times_seconds":{"replay_for":60,"remember_for":60,"unknown_for":60}}]}"""
        client = world.client(attempts_max=1)
        client.send(payment())
        # Sixty seconds less half of them as a margin.
        world.still.time_ms += 30_001
        outcome = client.send(payment())
        assert isinstance(outcome, Unresolved) and outcome.why == "window-over"
        assert (len(world.api.attempts()), world.api.asked_for_policy) == (1, 1)


def test_l10_a_machine_that_slept_through_the_window_sends_nothing(kind: str) -> None:
    with World(RESET, kind=kind) as world:

        def sleep_a_day() -> None:
            world.still.time_ms += 86_400_000

        world.api.before = sleep_a_day
        outcome = world.client().send(payment())
        assert isinstance(outcome, Unresolved) and outcome.why in ("window-over", "elapsed-over")
        assert len(world.api.attempts()) == 1


def test_l10_a_pause_that_lasts_for_a_day_is_judged_again(kind: str) -> None:
    with World(RESET, kind=kind) as world:
        sleep = world.still.sleep
        # The lid is closed.
        world.still.sleep = lambda pause_ms: sleep(pause_ms + 86_400_000)  # type: ignore[method-assign]
        outcome = world.client().send(payment())
        assert isinstance(outcome, Unresolved) and outcome.why in ("window-over", "elapsed-over")
        assert len(world.api.attempts()) == 1


def test_l12_one_name_is_one_operation(kind: str) -> None:
    with World(answer(200, YONNE_OK), kind=kind) as world:
        client = world.client()
        first, second = client.send(yonne()), client.send(yonne())
        assert isinstance(second, Fresh) and first == second
        client.close()
        third = world.client().send(yonne())
        assert third.reply is not None and third.reply.content.decode() == YONNE_OK
        assert len(world.api.seen) == 1


def test_l13_q8_an_edited_content_is_refused_until_it_is_known_that_nothing_happened(kind: str) -> None:
    with World(RESET, kind=kind) as world:
        client = world.client(attempts_max=1)
        client.send(payment())
        for edited in (
            payment(json='{"amount": 8}'),
            payment(target="https://api.example/refunds"),
            payment(preset="yonne"),
        ):
            with pytest.raises(Edited, match="payment-7"):
                client.send(edited)
        with pytest.raises(AnotherKey):
            client.send(payment(key=Key.v4()))
        with pytest.raises(NoSuchOperation):
            client.resume_operation("payment-9")
        assert len(world.api.attempts()) == 1


def test_e31_after_a_refusal_a_corrected_content_is_a_new_operation(kind: str) -> None:
    with World(answer(400), answer(201, "{}"), kind=kind) as world:
        client = world.client()
        client.send(payment())
        assert isinstance(client.send(payment(json='{"amount": 8}')), Fresh)
        first, second = world.api.attempts()
        assert first.key != second.key
        assert second.content == b'{"amount": 8}'


def test_e47_q12_l14_one_key_for_two_operations_is_refused(kind: str) -> None:
    with World(answer(201, "{}"), kind=kind) as world:
        client = world.client()
        key = Key.v7()
        client.send(payment(key=key))
        with pytest.raises(KeyTaken, match="payment-7"):
            client.send(payment(key=key, operation="payment-8"))
        assert len(world.api.seen) == 1
        assert [known.intent.operation for known in client.journal.operations()] == ["payment-7"]


def test_q23_other_credentials_cannot_go_on_with_what_may_have_happened(kind: str) -> None:
    with World(RESET, kind=kind) as world:
        client = world.client(attempts_max=1)
        client.send(payment())
        client.close()
        rotated = world.client(secret_headers={"X-API-Key": "yonne_live_5678"})
        with pytest.raises(OtherCredentials):
            rotated.send(payment())
        assert isinstance(rotated.resume()["payment-7"], OtherCredentials)
        rotated.close()
        assert len(world.api.seen) == 1
        # Those that it was sent with can.
        world.then(answer(201, "{}"))
        assert world.client().send(payment()).happened


def test_e31_corrected_credentials_go_on_with_what_did_not_happen(kind: str) -> None:
    with World(answer(401), answer(201, "{}"), kind=kind) as world:
        client = world.client()
        client.send(payment())
        client.close()
        assert world.client(secret_headers={"X-API-Key": "yonne_live_5678"}).send(payment()).happened
        first, second = world.api.attempts()
        assert (first.key, first.content) == (second.key, second.content)


def test_l09_whoever_presses_ctrl_c_can_resume() -> None:
    # asyncio makes a cancelled task of it.
    with World(answer(201, "{}")) as world:

        def interrupt() -> None:
            world.api.before = lambda: None
            raise KeyboardInterrupt

        world.api.before = interrupt
        client = world.client()
        with pytest.raises(KeyboardInterrupt):
            client.send(payment())
        assert [known.state for known in client.journal.operations()] == ["open"]
        assert client.resume()["payment-7"].happened
        world.one_key()


def test_l16_a_credential_that_cannot_be_sent_is_refused_without_telling_it(kind: str) -> None:
    with World(kind=kind) as world:
        with pytest.raises(SendError) as refused:
            world.client(secret_headers={"X-API-Key": "yonne\nlive"})
        assert "yonne" not in str(refused.value)
        # And the folder is free again.
        world.client()


STEPS = st.one_of(
    st.sampled_from([REFUSE, RESET, HANG, BREAK_OFF]),
    st.builds(
        Step,
        st.sampled_from([200, 201, 303, 400, 401, 402, 404, 409, 422, 429, 500, 503]),
        st.sampled_from(
            [
                "",
                YONNE_OK,
                '{"success":false}',
                '{"code":"in-flight"}',
                '{"code":"key-reused"}',
                '{"code":"outcome-unknown"}',
                EXISTS,
                GUARD,
                f'{{"orderId":"{ORDER}"}}',
                '{"orderId":"22222222-2222-4222-8222-222222222222"}',
            ]
        ),
        st.sampled_from([(), (("retry-after", "1"),), (("idempotency-status", "released"),)]),
    ),
)


@settings(max_examples=100, deadline=None, database=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    kind=st.sampled_from(["sync", "async"]),
    preset=st.sampled_from(PRESETS),
    script=st.lists(STEPS, min_size=1, max_size=14),
    resumptions=st.integers(0, 2),
)
def test_l02_l18_whatever_an_api_does(kind: str, preset: Any, script: list[Step], resumptions: int) -> None:
    """One key and one content, an outcome always, and success only with proof; across resumptions."""
    # Enough for everybody's last attempts.
    script = script + [RESET] * 64
    with World(*script, kind=kind) as world:
        client = world.client()
        intent = etherfuse() if preset == "etherfuse" else yonne(preset=preset)
        outcome = client.send(intent)
        for _ in range(resumptions):
            outcome = client.resume_operation(intent.operation)
        assert isinstance(outcome, (Fresh, Replayed, AlreadyExists, Rejected, Unresolved))
        attempts = world.api.attempts()
        assert all(seen == attempts[0] for seen in attempts)

        def proves(method: str, step: Step) -> bool:
            if step.does != "answer" or not 200 <= step.status <= 299:
                return False
            return (preset != "yonne" or step.content == YONNE_OK) if method == "POST" else ORDER in step.content

        if outcome.happened:
            proofs = [proves(seen.method, step) for seen, step in zip(world.api.seen, script, strict=False)]
            assert any(proofs), outcome
