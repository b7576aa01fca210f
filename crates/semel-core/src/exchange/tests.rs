//! Steps of the state machine that the model does not tell apart.

use bytes::Bytes;

use super::*;
use crate::policy::{OnCompleted, OnExpired, OnMismatch};

const RULES: Rules = Rules {
    on_unknown: OnUnknown::Reexecute,
    on_completed: OnCompleted::Replay,
    on_expired: OnExpired::Refuse,
    on_mismatch: OnMismatch::Refuse,
    mismatch: ProblemType::KeyReused,
    lease: Duration::from_secs(35),
    wait_max: Duration::ZERO,
    replay_for: Duration::from_hours(24),
    remember_for: Duration::from_hours(720),
    unknown_for: Duration::from_hours(720),
    probe_after: Duration::ZERO,
};
const FINGERPRINT: Fingerprint = Fingerprint::from_bytes([1; Fingerprint::LEN]);

fn open(rules: Rules) -> Exchange {
    Exchange::open(rules, FINGERPRINT, ExchangeId(1), Guard::Unguarded).0
}

/// What the store finds when another exchange took the record over.
fn taken_over(phase: Phase) -> Swapped {
    let stamp = Stamp { exchange: ExchangeId(2), write: 2 };
    let record =
        Record { fingerprint: FINGERPRINT, attempt: 2, phase, retention: RULES.unknown_for, guard: None, about: None };
    Swapped::Found(Found { stamp, age: Duration::ZERO, abandoned: false, record })
}

fn replied(effect: Effect) -> Executed {
    let reply = Reply { status: 201, headers: Vec::new(), content: Bytes::new() };
    Executed::Replied { kept: Kept::Reply(Arc::new(reply)), effect }
}

/// Claims, executes, and finds at the settle that the record was taken over.
fn fenced_by(phase: Phase, executed: Executed) -> Answer {
    let mut exchange = open(RULES);
    let Step::Execute(permit) = exchange.on_swapped(Swapped::Done) else { panic!("a confirmed claim executes") };
    exchange.on_executed(permit, executed);
    let Step::Answer(answer) = exchange.on_swapped(taken_over(phase)) else { panic!("a settle is the last swap") };
    answer
}

#[test]
fn a_fenced_effect_that_happened_is_never_told_as_unknown() {
    for phase in [Phase::Unknown, Phase::InFlight { lease: RULES.lease }] {
        let answer = fenced_by(phase, replied(Effect::Happened));
        assert_eq!(answer, Answer::Own { status: Some(KeyStatus::Unkept), warning: None });
    }
}

#[test]
fn a_fenced_writer_never_says_that_the_key_is_free() {
    let completed = Phase::Completed { kept: Kept::Omitted { status: 201 }, replay_for: RULES.replay_for };
    for phase in [Phase::Unknown, Phase::InFlight { lease: RULES.lease }, completed] {
        let answer = fenced_by(phase, replied(Effect::None));
        assert_eq!(answer, Answer::Own { status: Some(KeyStatus::Unkept), warning: None });
    }
}

const GUARD: RecordKey = RecordKey::from_bytes([9; RecordKey::LEN]);

/// A request that finds an unknown outcome under its key, at this age and under a guard, and asks the origin.
fn asking(age: Duration) -> Exchange {
    let rules = Rules { on_unknown: OnUnknown::Probe, probe_after: Duration::from_secs(70), ..RULES };
    let Swapped::Found(mut found) = taken_over(Phase::Unknown) else { panic!("that is what it makes") };
    (found.age, found.record.guard) = (age, Some(GUARD));
    let mut exchange = open(rules);
    let Step::Probe = exchange.on_swapped(Swapped::Found(found)) else { panic!("an unknown outcome is asked about") };
    exchange
}

#[test]
fn what_a_probe_finds_is_kept_under_the_guard_that_was_held() {
    let mut exchange = asking(Duration::ZERO);
    let kept = Kept::Omitted { status: 201 };
    let Step::Swap { swap, .. } = exchange.on_probed(Probed::Found(kept.clone())) else { panic!("it is kept") };
    let put = swap.put.expect("a record");
    assert_eq!(
        (put.record.guard, put.record.attempt, swap.expect.map(|stamp| stamp.exchange)),
        (Some(GUARD), 2, Some(ExchangeId(2)))
    );
    assert_eq!(put.record.phase, Phase::Completed { kept, replay_for: RULES.replay_for });
    let Step::Answer(Answer::Refuse(told)) = exchange.on_swapped(Swapped::Done) else {
        panic!("it has no reply to tell")
    };
    assert_eq!((told.kind, told.original_status), (ProblemType::ReplyGone, Some(201)));
}

#[test]
fn absence_is_believed_once_nothing_can_arrive_and_never_under_another_guard() {
    for (age, says, retry_after) in
        [(10, Probed::Absent, Some(60)), (70, Probed::Undecided, Some(1)), (70, Probed::Absent, None)]
    {
        let mut exchange = asking(Duration::from_secs(age));
        let mut step = exchange.on_probed(says);
        if let Step::Swap { swap: Swap { expect: None, put: None }, .. } = step {
            let Swapped::Found(found) = taken_over(Phase::Unknown) else { panic!("that is what it makes") };
            step = exchange.on_swapped(Swapped::Found(Found { age: Duration::from_secs(age), ..found }));
        }
        let Step::Answer(Answer::Refuse(told)) = step else { panic!("{age}: {step:?}") };
        assert_eq!((told.kind, told.retry_after), (ProblemType::OutcomeUnknown, retry_after), "{age}");
    }
}

/// SC12: whoever may use no fresh key claims none, and is told of the keys that they used as ever.
#[test]
fn sc12_who_may_use_no_fresh_key_only_asks_and_takes_over_what_was_executed() {
    let quota = Problem::new(ProblemType::QuotaExceeded);
    let rules = Rules { on_expired: OnExpired::Execute, ..RULES };
    let open = || Exchange::open_as(rules, FINGERPRINT, ExchangeId(1), Guard::Unguarded, Fresh::Refused(quota.clone()));
    let asks = |step: &Step| matches!(step, Step::Swap { swap: Swap { expect: None, put: None }, .. });
    let refused = |step: Step| matches!(step, Step::Answer(Answer::Refuse(problem)) if problem == quota);
    for nothing in [Swapped::Done, Swapped::Absent] {
        let (mut exchange, step) = open();
        assert!(asks(&step), "{step:?}");
        assert!(refused(exchange.on_swapped(nothing)));
    }
    let reply = Arc::new(Reply { status: 201, headers: Vec::new(), content: Bytes::new() });
    let completed = |replay_for| Phase::Completed { kept: Kept::Reply(Arc::clone(&reply)), replay_for };
    let (mut exchange, _) = open();
    let step = exchange.on_swapped(taken_over(completed(RULES.replay_for)));
    assert!(matches!(step, Step::Answer(Answer::Replay(_))), "{step:?}");
    let (mut exchange, _) = open();
    assert!(refused(exchange.on_swapped(taken_over(completed(Duration::ZERO)))), "a new life is a fresh key");
    // An operation that may have happened is finished, by whoever may re-execute it.
    let (mut exchange, _) = open();
    let step = exchange.on_swapped(taken_over(Phase::Unknown));
    let Step::Swap { swap: Swap { expect: Some(_), put: Some(put) }, .. } = step else { panic!("{step:?}") };
    assert_eq!(put.record.attempt, 3);
    // Unless it went away at that moment.
    let step = exchange.on_swapped(Swapped::Absent);
    assert!(asks(&step), "{step:?}");
    assert!(refused(exchange.on_swapped(Swapped::Done)));
}

#[test]
fn a_waiter_gives_up_before_its_stamps_repeat() {
    let mut exchange = open(Rules { wait_max: Duration::from_hours(24), ..RULES });
    let found = || taken_over(Phase::InFlight { lease: RULES.lease });
    let mut step = exchange.on_swapped(found());
    let mut last = Stamp { exchange: exchange.id(), write: 1 };
    let answer = loop {
        step = match step {
            Step::Swap { swap, .. } => {
                let stamp = swap.put.expect("a claim puts").stamp;
                assert!(stamp.write > last.write, "{stamp:?} came after {last:?}");
                last = stamp;
                exchange.on_swapped(found())
            }
            Step::Wait { .. } => exchange.on_waited(Duration::ZERO, None),
            Step::Execute(_) | Step::Look(_) | Step::Probe | Step::GiveBack { .. } => panic!("nothing was claimed"),
            Step::Answer(answer) => break answer,
        };
    };
    let Answer::Refuse(problem) = answer else { panic!("a waiter that gives up is refused") };
    assert_eq!((problem.kind, last.write), (ProblemType::InFlight, u16::MAX - WRITES_AFTER_CLAIM_MAX));
}

#[test]
fn the_longest_wait_does_not_overflow() {
    let mut exchange = open(Rules { wait_max: Duration::MAX, ..RULES });
    for _ in 0..2 {
        let step = exchange.on_swapped(taken_over(Phase::InFlight { lease: RULES.lease }));
        if matches!(step, Step::Wait { .. }) {
            exchange.on_waited(Duration::MAX, None);
        }
    }
}
