use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use expect_test::expect;
use semel_core::{
    decide::{Decision, Rules, decide},
    fingerprint::Fingerprint,
    policy::{OnCompleted, OnExpired, OnMismatch, OnUnknown},
    record::{ExchangeId, Kept, Phase, Record, Reply, Sealed, Stamp},
    register::Found,
    wire::{ProblemType, Warning},
};

use crate::table;

const MINE: Fingerprint = Fingerprint::from_bytes([1; Fingerprint::LEN]);
const OTHER: Fingerprint = Fingerprint::from_bytes([2; Fingerprint::LEN]);
const LEASE: Duration = Duration::from_secs(35);
const REPLAY_FOR: Duration = Duration::from_hours(24);
const REMEMBER_FOR: Duration = Duration::from_hours(720);

/// The last age a store can measure before `end`.
fn just_before(end: Duration) -> Duration {
    end.checked_sub(Duration::from_millis(1)).expect("an age is not negative")
}

#[test]
fn the_table_of_decisions() {
    let refuse = Rules {
        on_unknown: OnUnknown::Refuse,
        on_completed: OnCompleted::Replay,
        on_expired: OnExpired::Refuse,
        on_mismatch: OnMismatch::Refuse,
        mismatch: ProblemType::KeyReused,
        lease: LEASE,
        wait_max: Duration::ZERO,
        replay_for: REPLAY_FOR,
        remember_for: REMEMBER_FOR,
        unknown_for: REMEMBER_FOR,
        probe_after: LEASE,
    };
    let columns = [
        ("ietf", refuse),
        ("re-execute", Rules { on_unknown: OnUnknown::Reexecute, ..refuse }),
        ("probe", Rules { on_unknown: OnUnknown::Probe, ..refuse }),
        ("forward-key", Rules { on_unknown: OnUnknown::ForwardKey, ..refuse }),
        ("conflict", Rules { on_completed: OnCompleted::Conflict, ..refuse }),
        ("mismatch: replay", Rules { on_mismatch: OnMismatch::Replay, ..refuse }),
        ("expired: execute", Rules { on_expired: OnExpired::Execute, ..refuse }),
    ];
    let in_flight = Phase::InFlight { lease: LEASE };
    let reply = Arc::new(Reply { status: 201, headers: Vec::new(), content: Bytes::from_static(b"{}") });
    let kept = Phase::Completed { kept: Kept::Reply(reply), replay_for: REPLAY_FOR };
    let sealed = Kept::Sealed(Sealed { status: 201, bytes: Bytes::new() });
    let sealed = Phase::Completed { kept: sealed, replay_for: REPLAY_FOR };
    let omitted = Phase::Completed { kept: Kept::Omitted { status: 201 }, replay_for: REPLAY_FOR };
    let found = [
        ("in flight", &in_flight, Duration::ZERO, false),
        ("in flight", &in_flight, just_before(LEASE), false),
        ("in flight", &in_flight, LEASE, false),
        ("in flight, abandoned", &in_flight, Duration::ZERO, true),
        ("unknown", &Phase::Unknown, Duration::ZERO, false),
        ("unknown, abandoned", &Phase::Unknown, just_before(REMEMBER_FOR), true),
        ("completed, kept", &kept, Duration::ZERO, false),
        ("completed, kept, abandoned", &kept, Duration::ZERO, true),
        ("completed, kept", &kept, just_before(REPLAY_FOR), false),
        ("completed, kept", &kept, REPLAY_FOR, false),
        ("completed, kept", &kept, just_before(REMEMBER_FOR), false),
        ("completed, not opened", &sealed, Duration::ZERO, false),
        ("completed, omitted", &omitted, Duration::ZERO, false),
        ("completed, omitted", &omitted, REPLAY_FOR, false),
    ];
    let mut rows = vec![["found", "at age", "fingerprint"].map(str::to_owned).to_vec()];
    rows[0].extend(columns.iter().map(|(name, _)| (*name).to_owned()));
    for (name, phase, age, abandoned) in found {
        for (whose, fingerprint) in [("same", MINE), ("other", OTHER)] {
            // Attempt 4, so that the next one shows.
            let record = Record {
                fingerprint,
                attempt: 4,
                phase: phase.clone(),
                retention: REMEMBER_FOR,
                guard: None,
                about: None,
            };
            let record = record.at_age(age).expect("within its retention");
            let stamp = Stamp { exchange: ExchangeId(7), write: 1 };
            let found = Found { stamp, age, abandoned, record };
            let mut row = vec![name.to_owned(), humantime::format_duration(age).to_string(), whose.to_owned()];
            row.extend(columns.iter().map(|(_, rules)| words(&decide(rules, MINE, &found))));
            rows.push(row);
        }
    }
    let rows = rows.into_iter().map(|row| <[String; 10]>::try_from(row).expect("ten columns"));
    expect![[r#"
        found                       at age                    fingerprint  ietf                 re-execute           probe                forward-key          conflict         mismatch: replay     expired: execute
        in flight                   0s                        same         in flight            in flight            in flight            in flight            in flight        in flight            in flight
        in flight                   0s                        other        mismatch             mismatch             mismatch             mismatch             mismatch         in flight            mismatch
        in flight                   34s 999ms                 same         in flight            in flight            in flight            in flight            in flight        in flight            in flight
        in flight                   34s 999ms                 other        mismatch             mismatch             mismatch             mismatch             mismatch         in flight            mismatch
        in flight                   35s                       same         outcome unknown      execution 5          probe                execution 5          outcome unknown  outcome unknown      outcome unknown
        in flight                   35s                       other        mismatch             mismatch             mismatch             mismatch             mismatch         mismatch             mismatch
        in flight, abandoned        0s                        same         outcome unknown      execution 5          probe                execution 5          outcome unknown  outcome unknown      outcome unknown
        in flight, abandoned        0s                        other        mismatch             mismatch             mismatch             mismatch             mismatch         mismatch             mismatch
        unknown                     0s                        same         outcome unknown      execution 5          probe                execution 5          outcome unknown  outcome unknown      outcome unknown
        unknown                     0s                        other        mismatch             mismatch             mismatch             mismatch             mismatch         mismatch             mismatch
        unknown, abandoned          29days 23h 59m 59s 999ms  same         outcome unknown      execution 5          probe                execution 5          outcome unknown  outcome unknown      outcome unknown
        unknown, abandoned          29days 23h 59m 59s 999ms  other        mismatch             mismatch             mismatch             mismatch             mismatch         mismatch             mismatch
        completed, kept             0s                        same         replay 201           replay 201           replay 201           replay 201           exists, was 201  replay 201           replay 201
        completed, kept             0s                        other        mismatch             mismatch             mismatch             mismatch             mismatch         replay 201           mismatch
        completed, kept, abandoned  0s                        same         replay 201           replay 201           replay 201           replay 201           exists, was 201  replay 201           replay 201
        completed, kept, abandoned  0s                        other        mismatch             mismatch             mismatch             mismatch             mismatch         replay 201           mismatch
        completed, kept             23h 59m 59s 999ms         same         replay 201           replay 201           replay 201           replay 201           exists, was 201  replay 201           replay 201
        completed, kept             23h 59m 59s 999ms         other        mismatch             mismatch             mismatch             mismatch             mismatch         replay 201           mismatch
        completed, kept             1day                      same         reply gone, was 201  reply gone, was 201  reply gone, was 201  reply gone, was 201  exists, was 201  reply gone, was 201  execution 1, warned
        completed, kept             1day                      other        mismatch             mismatch             mismatch             mismatch             mismatch         reply gone, was 201  execution 1, warned
        completed, kept             29days 23h 59m 59s 999ms  same         reply gone, was 201  reply gone, was 201  reply gone, was 201  reply gone, was 201  exists, was 201  reply gone, was 201  execution 1, warned
        completed, kept             29days 23h 59m 59s 999ms  other        mismatch             mismatch             mismatch             mismatch             mismatch         reply gone, was 201  execution 1, warned
        completed, not opened       0s                        same         reply gone, was 201  reply gone, was 201  reply gone, was 201  reply gone, was 201  exists, was 201  reply gone, was 201  reply gone, was 201
        completed, not opened       0s                        other        mismatch             mismatch             mismatch             mismatch             mismatch         reply gone, was 201  mismatch
        completed, omitted          0s                        same         reply gone, was 201  reply gone, was 201  reply gone, was 201  reply gone, was 201  exists, was 201  reply gone, was 201  reply gone, was 201
        completed, omitted          0s                        other        mismatch             mismatch             mismatch             mismatch             mismatch         reply gone, was 201  mismatch
        completed, omitted          1day                      same         reply gone, was 201  reply gone, was 201  reply gone, was 201  reply gone, was 201  exists, was 201  reply gone, was 201  execution 1, warned
        completed, omitted          1day                      other        mismatch             mismatch             mismatch             mismatch             mismatch         reply gone, was 201  execution 1, warned
    "#]].assert_eq(&table(rows));
}

#[test]
fn nothing_is_found_past_its_retention() {
    let record = Record {
        fingerprint: MINE,
        attempt: 1,
        phase: Phase::Unknown,
        retention: REMEMBER_FOR,
        guard: None,
        about: None,
    };
    assert_eq!(record.clone().at_age(just_before(REMEMBER_FOR)), Some(record.clone()));
    assert_eq!(record.at_age(REMEMBER_FOR), None);
}

fn words(decision: &Decision) -> String {
    match decision {
        Decision::Replay(reply) => format!("replay {}", reply.status),
        Decision::Exists { original_status } => format!("exists, was {original_status}"),
        Decision::ReplyGone { original_status } => format!("reply gone, was {original_status}"),
        Decision::InFlight => "in flight".to_owned(),
        Decision::OutcomeUnknown => "outcome unknown".to_owned(),
        Decision::Probe => "probe".to_owned(),
        Decision::Mismatch => "mismatch".to_owned(),
        Decision::TakeOver { attempt, warning } => match warning {
            Some(Warning::Expired) => format!("execution {attempt}, warned"),
            Some(Warning::AttemptSuffix) => unreachable!("a record does not know how a key was written"),
            None => format!("execution {attempt}"),
        },
    }
}
