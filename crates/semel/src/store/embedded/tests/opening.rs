//! What an opening tells, and what it goes on with.

use super::{
    Verdict::{Absent, Done, Look},
    *,
};

#[test]
fn a_second_opening_is_refused_while_the_first_holds_the_folder() {
    let mut world = World::opened();
    let second = Opened::open(&PathBuf::from(FOLDER), world.options.clone()).err().unwrap();
    assert!(matches!(&second, OpenError::Locked { folder } if folder == FOLDER), "{second}");
    world.close();
    world.open().unwrap();
}

#[test]
fn what_was_in_flight_is_abandoned_and_counted() {
    let mut world = World::opened();
    world.claim(1).unwrap();
    world.claim(2).unwrap();
    world.replace(2, completed(10, 10, 10)).unwrap();
    world.crash(Survival::Durable);
    assert_eq!(world.recovery().abandoned_in_flight, 1);
    assert_eq!(world.recovery().records, 2);
    assert_eq!(world.recovery().session, 2);
    world.verify();
    assert!(world.parts().log.read(&key(1)).unwrap().unwrap().abandoned);
    world.replace(1, in_flight(10)).unwrap();
    assert!(!world.parts().log.read(&key(1)).unwrap().unwrap().abandoned, "written by the living");
}

#[test]
fn an_abandoned_record_stays_abandoned_when_it_is_moved() {
    let mut world = World::opened();
    world.replace(1, in_flight(100_000)).unwrap();
    world.crash(Survival::Durable);
    for n in 0..60 {
        world.replace(100 + n, completed(1000, 10, 10)).unwrap();
    }
    world.clock.advance(Duration::from_secs(20));
    world.sweep().unwrap();
    assert_eq!(world.parts().log.stats().copied, 1);
    world.verify();
}

#[test]
fn hints_spare_reading_and_wrong_ones_are_ignored() {
    let mut world = World::opened();
    for n in 0..40 {
        world.claim(n % 20).unwrap();
        world.replace(n % 20, completed(700, 1000, 1000)).unwrap();
        if n % 5 == 0 {
            world.release(n % 20).unwrap();
        }
    }
    world.close();
    world.open().unwrap();
    assert_eq!(world.recovery().hinted, world.recovery().segments);
    assert_eq!(world.recovery().frames_read, 0);
    world.verify();
    world.close();

    let whole = world.disk.clone();
    let hints: Vec<PathBuf> = whole
        .list(&PathBuf::from(FOLDER))
        .unwrap()
        .into_iter()
        .map(|name| PathBuf::from(FOLDER).join(name))
        .filter(|path| path.extension().is_some_and(|extension| extension == "hint"))
        .collect();
    assert!(hints.len() >= 3);
    for hint in &hints {
        let len = usize::try_from(whole.open(hint).unwrap().len().unwrap()).unwrap();
        for damage in [0, 13, 17, 30, 50, 80, len - 1] {
            world.disk = whole.restart(Survival::Written);
            world.disk.edit(hint, |bytes| bytes[damage] ^= 1);
            world.open().unwrap();
            assert!(world.recovery().frames_read > 0);
            world.verify();
        }
        // One of another life of the file.
        world.disk = whole.restart(Survival::Written);
        let other = hints.iter().find(|other| *other != hint).unwrap();
        let bytes = world.disk.edit(other, |bytes| bytes.clone());
        world.disk.edit(hint, |own| *own = bytes);
        world.open().unwrap();
        world.verify();
    }
}

#[test]
fn a_hint_of_an_earlier_close_is_read_on_from() {
    let mut world = World::opened();
    world.claim(1).unwrap();
    world.close();
    world.open().unwrap();
    world.replace(1, completed(10, 100, 100)).unwrap();
    world.claim(2).unwrap();
    world.crash(Survival::Written);
    assert_eq!((world.recovery().hinted, world.recovery().frames_read), (1, 3));
    world.verify();
}

#[test]
fn time_goes_on_from_the_log_when_the_clock_was_set_back() {
    let mut world = World::opened();
    world.replace(1, in_flight(100)).unwrap();
    world.clock.advance(Duration::from_secs(90));
    world.claim(2).unwrap();
    let before = world.now();
    world.clock.set(5000);
    assert_eq!(world.now(), before, "never back within a session");
    world.crash(Survival::Durable);
    assert_eq!(world.now(), before, "nor between two");
    world.verify();
    world.clock.advance(Duration::from_secs(10));
    world.verify();
    assert_eq!(world.parts().log.read(&key(1)).unwrap(), None);
}

#[test]
fn openings_without_writes_in_between_add_no_segments() {
    let mut world = World::opened();
    for _ in 0..50 {
        world.crash(Survival::Durable);
        world.close();
        world.open().unwrap();
    }
    assert_eq!(world.segments(), 1);
    assert_eq!(world.recovery().session, 101);
}

#[test]
fn records_over_a_mebibyte_are_kept_and_those_over_a_segment_refused() {
    let mut world = World::new();
    world.options.segment_bytes = 4 << 20;
    world.options.spare_segments = 0;
    world.open().unwrap();
    for n in 0..5 {
        world.replace(n, completed((1 << 20) + 12_345, 1000, 1000)).unwrap();
    }
    let (over, beside) = (world.put(completed(5 << 20, 10, 10)), world.put(in_flight(100)));
    world.batch(&[(9, Swap { expect: None, put: Some(over) }), (10, Swap { expect: None, put: Some(beside) })]);
    assert_eq!((world.stamp(9), world.stamp(10).is_some()), (None, true));
    world.crash(Survival::Durable);
    world.verify();
    assert_eq!(world.segments(), 2);
}

#[test]
fn an_opening_with_smaller_segments_reads_the_larger() {
    let mut world = World::new();
    world.options.segment_bytes = 64 << 10;
    world.open().unwrap();
    for n in 0..40 {
        world.replace(n, completed(1000, 1000, 1000)).unwrap();
    }
    world.options.segment_bytes = 16 << 10;
    world.crash(Survival::Durable);
    world.verify();
    world.claim(100).unwrap();
    world.crash(Survival::Durable);
    world.verify();
}

#[test]
fn one_frame_holds_a_batch_and_each_swap_sees_the_one_before() {
    let mut world = World::opened();
    let (claim, settle) = (world.put(in_flight(100)), world.put(completed(10, 100, 100)));
    let commits = world.parts().log.stats().commits;
    let late = world.put(in_flight(100));
    let swaps = [
        Swap { expect: None, put: Some(claim.clone()) },
        Swap { expect: None, put: Some(late.clone()) },
        Swap { expect: None, put: Some(claim.clone()) },
        Swap { expect: Some(claim.stamp), put: Some(settle.clone()) },
        Swap { expect: Some(claim.stamp), put: Some(late.clone()) },
        Swap { expect: Some(settle.stamp), put: None },
        Swap { expect: Some(settle.stamp), put: None },
        Swap { expect: None, put: Some(late) },
    ];
    let (requests, answers): (Vec<_>, Vec<_>) = swaps.iter().map(|swap| request(&key(1), swap)).unzip();
    world.submit(requests);
    let verdicts: Vec<_> = answers.into_iter().map(|answer| answer.wait().unwrap().unwrap()).collect();
    assert_eq!(verdicts, [Done, Look, Done, Done, Look, Done, Absent, Done]);
    assert_eq!(world.parts().log.stats().commits, commits + 1);
}
