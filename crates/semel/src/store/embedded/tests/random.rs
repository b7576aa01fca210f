//! Random work against the model.

use proptest::prelude::*;

use super::*;

#[derive(Clone, Debug)]
enum Step {
    Claim(u64),
    Replace(u64, usize, u64, u64),
    Release(u64),
    AskAgain(u64),
    Batch(u64, u8),
    Advance(u64),
    Sweep,
    Close,
    Crash(u64),
    SetBack(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let n = || 0..10u64;
    prop_oneof![
        4 => n().prop_map(Step::Claim),
        5 => (n(), 0..3000usize, 1..200u64, 1..300u64).prop_map(|(n, len, replay, retain)| Step::Replace(n, len, replay, retain)),
        2 => n().prop_map(Step::Release),
        1 => n().prop_map(Step::AskAgain),
        2 => (n(), 1..8u8).prop_map(|(n, count)| Step::Batch(n, count)),
        2 => (1..80u64).prop_map(Step::Advance),
        2 => Just(Step::Sweep),
        1 => Just(Step::Close),
        1 => any::<u64>().prop_map(Step::Crash),
        1 => (1..500u64).prop_map(Step::SetBack),
    ]
}

/// While the clock is behind the log, an opening knows of no later time than that of the last frame.
fn note_time(world: &mut World) {
    world.replace(200, in_flight(1)).unwrap();
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_store_answers_as_a_map_does(steps in prop::collection::vec(step(), 1..160)) {
        let mut world = World::opened();
        for step in steps {
            match step {
                Step::Claim(n) => drop(world.claim(n).unwrap()),
                Step::Replace(n, len, replay, retain) => drop(world.replace(n, completed(len, replay, retain)).unwrap()),
                Step::Release(n) => drop(world.release(n).unwrap()),
                Step::AskAgain(n) => {
                    if let Some(Some(known)) = world.model.get(&n).map(|states| states[0].clone()) {
                        world.swap(n, &Swap { expect: None, put: Some(known.put) }).unwrap();
                    }
                }
                Step::Batch(n, count) => {
                    let swaps: Vec<_> = (0..u64::from(count))
                        .map(|i| {
                            let put = world.put(in_flight(60));
                            (100 + n + i, Swap { expect: world.stamp(100 + n + i), put: Some(put) })
                        })
                        .collect();
                    world.batch(&swaps);
                }
                Step::Advance(seconds) => world.clock.advance(Duration::from_secs(seconds)),
                Step::Sweep => drop(world.sweep().unwrap()),
                Step::Close => {
                    note_time(&mut world);
                    world.close();
                    world.open().unwrap();
                }
                Step::Crash(seed) => {
                    note_time(&mut world);
                    world.crash(Survival::Torn(seed));
                }
                Step::SetBack(seconds) => {
                    note_time(&mut world);
                    world.clock.set(world.clock.now_ms().saturating_sub(seconds * 1000));
                    world.crash(Survival::Durable);
                }
            }
            world.verify();
        }
    }
}
