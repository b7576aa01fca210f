//! Segments are given back, and giving them back never changes what is told.

use super::*;

/// Fills segments with records that nobody needs.
fn churn(world: &mut World, records: u64) {
    for n in 0..records {
        world.claim(1000 + n % 3).unwrap();
        world.release(1000 + n % 3).unwrap();
    }
}

fn reopen(world: &mut World) {
    world.crash(Survival::Durable);
    world.verify();
}

#[test]
fn segments_without_a_live_record_are_written_again_at_once() {
    let mut world = World::opened();
    churn(&mut world, 2000);
    assert!(world.segments() <= 3, "{}", world.segments());
    assert!(world.parts().log.next_slot.load(Ordering::Relaxed) <= 5, "files are written again, not added");
    reopen(&mut world);
}

#[test]
fn frames_of_a_recycled_segments_former_life_never_come_back() {
    let mut world = World::opened();
    for round in 0..20 {
        for n in 0..30 {
            world.replace(round * 100 + n, completed(1000, 50, 50)).unwrap();
        }
        world.clock.advance(Duration::from_mins(1));
        assert_eq!(world.sweep(), Ok(30));
        reopen(&mut world);
    }
    assert!(world.parts().log.next_slot.load(Ordering::Relaxed) <= 9);
}

#[test]
fn a_removal_holds_when_its_segment_is_given_back() {
    let mut world = World::opened();
    // The claim lies in a segment that a long-lived record keeps.
    world.replace(0, completed(9000, 100_000, 100_000)).unwrap();
    world.claim(1).unwrap();
    churn(&mut world, 40);
    world.release(1).unwrap();
    churn(&mut world, 200);
    world.sweep().unwrap();
    reopen(&mut world);
    churn(&mut world, 200);
    world.close();
    world.open().unwrap();
    world.verify();
    assert_eq!(world.stamp(1), None);
}

#[test]
fn an_expired_record_hides_an_older_one_for_ever() {
    let mut world = World::opened();
    world.replace(0, completed(9000, 100_000, 100_000)).unwrap();
    world.replace(1, in_flight(100_000)).unwrap();
    churn(&mut world, 40);
    world.replace(1, completed(10, 5, 5)).unwrap();
    world.clock.advance(Duration::from_secs(10));
    for _ in 0..3 {
        churn(&mut world, 100);
        world.sweep().unwrap();
        world.close();
        world.open().unwrap();
        world.verify();
        reopen(&mut world);
    }
    assert_eq!(world.claim(1), Ok(Swapped::Done));
}

#[test]
fn a_long_lived_record_does_not_keep_the_short_lived_around_it() {
    let mut world = World::opened();
    for round in 0..10 {
        world.replace(round, completed(100, 100_000, 100_000)).unwrap();
        for n in 0..30 {
            world.replace(1000 * (round + 1) + n, completed(1000, 50, 50)).unwrap();
        }
        world.clock.advance(Duration::from_mins(1));
        world.sweep().unwrap();
    }
    assert!(world.segments() <= 4, "{} segments for ten records", world.segments());
    assert!(world.parts().log.stats().copied >= 10);
    let age_before = world.parts().log.read(&key(0)).unwrap().unwrap().age;
    assert_eq!(age_before, Duration::from_mins(10), "moving a record does not make it younger");
    reopen(&mut world);
}

#[test]
fn content_past_its_time_is_given_back_and_the_fact_is_kept() {
    let mut world = World::opened();
    for n in 0..40 {
        world.replace(n, completed(3000, 50, 100_000)).unwrap();
    }
    let before = world.segments();
    assert!(before >= 10);
    world.clock.advance(Duration::from_mins(1));
    world.sweep().unwrap();
    assert!(world.segments() <= 3, "{before} segments became {}", world.segments());
    world.verify();
    reopen(&mut world);
}

#[test]
fn half_live_logs_are_left_alone_and_mostly_dead_ones_are_not() {
    let mut world = World::opened();
    for n in 0..60 {
        world.replace(n, completed(1000, 100_000, 100_000)).unwrap();
    }
    world.sweep().unwrap();
    assert_eq!(world.parts().log.stats().copied, 0);
    for n in 0..60 {
        if n % 4 != 0 {
            world.release(n).unwrap();
        }
    }
    let before = world.segments();
    world.sweep().unwrap();
    assert!(world.segments() < before);
    reopen(&mut world);
}

#[test]
fn a_move_is_bounded_and_goes_on_with_the_next_sweep() {
    let mut world = World::new();
    world.options.copy_bytes_max = 2000;
    world.open().unwrap();
    for n in 0..60 {
        world.replace(n, completed(1000, 100_000, 100_000)).unwrap();
    }
    for n in 0..60 {
        if n % 4 != 0 {
            world.release(n).unwrap();
        }
    }
    let before = world.segments();
    world.sweep().unwrap();
    assert!(world.parts().log.stats().copied <= 3);
    for _ in 0..40 {
        world.sweep().unwrap();
    }
    assert!(world.segments() < before);
    reopen(&mut world);
}

#[test]
fn a_record_that_changed_while_it_was_to_be_moved_stays_changed() {
    let mut world = World::opened();
    world.claim(1).unwrap();
    let from = world.parts().log.index.get(Fingerprint::of(&key(1))).unwrap();
    let (head, mut bytes) = world.parts().log.read_current(Fingerprint::of(&key(1)), from).unwrap().unwrap();
    bytes.truncate(head.size);
    world.replace(1, completed(10, 100, 100)).unwrap();
    let (reply, answer) = reply::reply();
    world.submit(vec![Request { key: key(1), act: Act::Copy { from }, bytes, reply }]);
    assert_eq!(answer.wait().unwrap(), Ok(Verdict::Look));
    world.verify();
    reopen(&mut world);
}

#[test]
fn sweeps_say_how_many_records_they_dropped() {
    let mut world = World::opened();
    for n in 0..25 {
        world.replace(n, in_flight(if n < 15 { 10 } else { 1000 })).unwrap();
    }
    assert_eq!(world.sweep(), Ok(0));
    world.clock.advance(Duration::from_secs(10));
    let submit = |requests| world.submit(requests);
    assert_eq!(world.parts().keeper.sweep(10, &submit), Ok(10));
    assert_eq!(world.parts().keeper.sweep(10, &submit), Ok(5));
    assert_eq!(world.parts().keeper.sweep(10, &submit), Ok(0));
    assert_eq!(world.parts().log.stats().records, 10);
}
