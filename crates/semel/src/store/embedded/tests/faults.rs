//! Every write and every barrier of a workload fails once in every way, and nothing that was answered is lost.

use super::*;

const STEPS: u64 = 64;

/// Does a bit of everything; deterministic, so that operation n is the same one in every run.
fn work(world: &mut World) {
    for step in 0..STEPS {
        if world.disk.crashed() {
            return;
        }
        let n = step * 7 % 12;
        // Answers are compared with the model; whether they are errors is the fault's business.
        drop(match step % 8 {
            0 | 3 => world.claim(n).map(|_| ()),
            1 => world.replace(n, completed(900, 60, 400)).map(|_| ()),
            2 => {
                let swaps: Vec<_> = (0..3)
                    .map(|i| {
                        let record = if i == 0 { completed(2000, 30, 60) } else { in_flight(100) };
                        let put = world.put(record);
                        (20 + step * 3 + i, Swap { expect: None, put: Some(put) })
                    })
                    .collect();
                world.batch(&swaps);
                Ok(())
            }
            4 => world.replace(n, completed(3000, 20, 50)).map(|_| ()),
            5 => world.release(n).map(|_| ()),
            6 => {
                world.clock.advance(Duration::from_secs(15));
                world.sweep().map(|_| ())
            }
            7 => world.replace(n, completed(100, 1000, 1000)).map(|_| ()),
            _ => unreachable!("eight kinds of step"),
        });
    }
}

fn run(operation: u64, fault: Fault) -> World {
    let mut world = World::new();
    world.disk.plan(operation, fault);
    if world.open().is_ok() {
        work(&mut world);
    }
    world
}

/// The same world, as far as a restart is concerned.
fn reopened(world: &World, survival: Survival) -> World {
    let mut reopened = World::new();
    reopened.disk = world.disk.clone();
    reopened.clock.set(world.clock.now_ms());
    reopened.model.clone_from(&world.model);
    reopened.session = world.session;
    reopened.writes = 1 << 64;
    reopened.crash(survival);
    reopened.verify();
    reopened
}

/// What was seen after the restart is there after the power fails as well.
fn goes_on(mut world: World) {
    drop(world.claim(99).unwrap());
    world.crash(Survival::Durable);
    world.verify();
    work(&mut world);
    world.verify();
    world.crash(Survival::Torn(3));
    world.verify();
}

fn operations() -> u64 {
    let world = run(u64::MAX, Fault::Crash);
    assert!(world.parts().log.check_poison().is_ok());
    assert!(world.parts().log.segments.read().oldest > 2, "the workload must give segments back");
    assert!(world.parts().log.stats().copied > 0, "and move records");
    println!("{:?} {}", world.parts().log.stats(), world.disk.operations());
    world.disk.operations()
}

#[test]
fn a_crash_at_any_operation_loses_nothing_that_was_answered() {
    for operation in 0..operations() {
        let world = run(operation, Fault::Crash);
        assert!(world.disk.crashed());
        for survival in [
            Survival::Durable,
            Survival::Torn(operation),
            Survival::Torn(!operation),
            Survival::Written,
            Survival::Cached,
        ] {
            let world = reopened(&world, survival);
            if operation % 5 == 0 {
                goes_on(world);
            }
        }
    }
}

#[test]
fn an_io_error_at_any_operation_is_survived_by_opening_again() {
    let mut poisoned = 0;
    for operation in 0..operations() {
        let mut world = run(operation, Fault::Io);
        let alive = world.parts.as_ref().is_some_and(|parts| parts.log.check_poison().is_ok());
        if alive {
            world.verify();
        } else if world.parts.is_some() {
            poisoned += 1;
            let error = world.claim(77).unwrap_err();
            assert!(matches!(&error, StoreError::Unavailable(why) if why.contains("restart to recover")), "{error}");
        }
        goes_on(reopened(&world, Survival::Cached));
        drop(reopened(&world, Survival::Durable));
        drop(reopened(&world, Survival::Torn(operation)));
    }
    assert!(poisoned > 20, "{poisoned}");
}

#[test]
fn a_full_disk_at_any_operation_loses_nothing_and_what_was_refused_never_counts() {
    let mut survived = 0;
    for operation in 0..operations() {
        let mut world = run(operation, Fault::Full);
        if world.parts.as_ref().is_some_and(|parts| parts.log.check_poison().is_ok()) {
            survived += 1;
            world.verify();
        }
        goes_on(reopened(&world, Survival::Cached));
        drop(reopened(&world, Survival::Durable));
        drop(reopened(&world, Survival::Written));
    }
    assert!(survived > 20, "{survived}");
}

#[test]
fn a_frame_that_found_no_room_is_written_when_there_is_some() {
    let mut world = World::opened();
    world.claim(1).unwrap();
    world.disk.plan(world.disk.operations(), Fault::Full);
    assert!(matches!(world.claim(2), Err(StoreError::Full(_))));
    let refused = reopened(&world, Survival::Written);
    assert_eq!(refused.stamp(2), None);
    assert_eq!(world.claim(2), Ok(Swapped::Done));
    world.crash(Survival::Durable);
    world.verify();
}
