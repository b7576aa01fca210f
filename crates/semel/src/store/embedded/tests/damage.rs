//! Damaged bytes are told, and never read as "not there" (I11, conformance K8 and K9).

use super::*;

fn written() -> World {
    let mut world = World::opened();
    for n in 0..12 {
        world.claim(n).unwrap();
        world.replace(n, completed(700, 1000, 1000)).unwrap();
    }
    assert!(world.segments() >= 2);
    world
}

/// What a reader sees after the damage: every key as it was, or an error. Answers how many errors there were.
fn errors_or_truth(world: &mut World, opened: Result<(), OpenError>) -> usize {
    match opened {
        Err(OpenError::Corrupt { .. } | OpenError::NewerFormat { .. } | OpenError::Io { .. }) => 1,
        Err(error) => panic!("{error}"),
        Ok(()) => {
            let (now, session) = (world.now(), world.session);
            let mut errors = 0;
            for (n, states) in &world.model {
                match world.parts().log.read(&key(*n)) {
                    Err(StoreError::Corrupt(_)) => errors += 1,
                    Err(error) => panic!("{error}"),
                    Ok(is) => {
                        let known = states[0].as_ref();
                        assert_eq!(is, known.and_then(|known| found(known, now, session)), "key {n}");
                    }
                }
            }
            errors
        }
    }
}

fn used(segment: &super::super::log::Segment) -> usize {
    usize::try_from(segment.used.load(Ordering::Relaxed)).unwrap()
}

#[test]
fn a_flipped_bit_anywhere_in_the_log_is_never_read_as_absent() {
    for cleanly_closed in [true, false] {
        let mut world = written();
        let log = world.parts().log.clone();
        let segments: Vec<_> = log.segments.read().list.iter().map(|s| (s.slot, used(s))).collect();
        // Of a log that was not closed, the last frame cannot be told from one that a crash cut short.
        world.claim(50).unwrap();
        if cleanly_closed {
            world.close();
        }
        world.parts = None;
        world.model.remove(&50);
        let last = world.disk.clone();
        let mut told = 0;
        for (slot, used) in segments {
            for at in (0..64).chain((4096..used).step_by(37)) {
                world.disk = last.restart(Survival::Written);
                world.disk.edit(&log.segment_path(slot), |bytes| bytes[at] ^= 1 << (at % 8));
                let opened = world.open();
                told += errors_or_truth(&mut world, opened);
                world.parts = None;
                world.session = 1;
            }
        }
        assert!(told > 100, "{told}");
    }
}

#[test]
fn a_torn_last_frame_is_dropped_and_told() {
    let mut world = written();
    let path = world.active_path();
    let before = used(world.parts().log.segments.read().list.back().unwrap());
    world.claim(50).unwrap();
    world.parts = None;
    world.disk.edit(&path, |bytes| bytes[before + 100] ^= 1);
    world.model.remove(&50);
    world.open().unwrap();
    assert_eq!(world.recovery().torn_bytes, (40 + 136));
    world.verify();
    assert_eq!(world.claim(50), Ok(Swapped::Done));
}

#[test]
fn a_truncated_tail_is_recovered_up_to_the_last_whole_frame() {
    let mut world = written();
    let path = world.active_path();
    let before = world.parts().log.segments.read().list.back().unwrap().used.load(Ordering::Relaxed);
    world.claim(50).unwrap();
    world.parts = None;
    world.model.remove(&50);
    let whole = world.disk.clone();
    for cut in [1, 39, 41, 100, 175] {
        world.disk = whole.restart(Survival::Written);
        world.disk.edit(&path, |bytes| bytes.truncate(usize::try_from(before).unwrap() + cut));
        world.open().unwrap();
        world.session = 2;
        world.verify();
    }
}

#[test]
fn damage_found_while_reading_is_corrupt_and_not_absent() {
    let mut world = World::opened();
    world.claim(1).unwrap();
    let place = world.parts().log.index.get(Fingerprint::of(&key(1))).unwrap();
    world.disk.edit(&world.active_path(), |bytes| bytes[place.offset() + 70] ^= 4);
    assert!(matches!(world.parts().log.read(&key(1)), Err(StoreError::Corrupt(_))));
    let put = world.put(in_flight(10));
    let answer = world.ask(&key(1), &Swap { expect: None, put: Some(put) });
    assert!(matches!(answer, Err(StoreError::Corrupt(_))), "{answer:?}");
    let page = world.parts().log.scan(PhaseKind::InFlight, None, 10);
    assert!(matches!(page, Err(StoreError::Corrupt(_))), "{page:?}");
}

#[test]
fn a_segment_missing_from_the_middle_is_told() {
    let mut world = written();
    for n in 20..40 {
        world.replace(n, completed(1500, 1000, 1000)).unwrap();
    }
    assert!(world.segments() >= 3);
    let slot = world.parts().log.segments.read().list[1].slot;
    let path = world.parts().log.segment_path(slot);
    world.parts = None;
    world.disk.remove(&path).unwrap();
    assert!(matches!(world.open(), Err(OpenError::Corrupt { .. })));
}

#[test]
fn a_newer_format_is_refused_with_both_numbers() {
    let mut world = written();
    let path = world.active_path();
    world.parts = None;
    world.disk.edit(&path, |bytes| {
        bytes[8..12].copy_from_slice(&9u32.to_le_bytes());
        let crc = crc32c::crc32c_append(crc32c::crc32c(&bytes[..12]), &bytes[16..64]);
        bytes[12..16].copy_from_slice(&crc.to_le_bytes());
    });
    let error = world.open().unwrap_err();
    assert!(matches!(error, OpenError::NewerFormat { found: 9, known: 1 }));
    assert!(error.to_string().contains("format 9"), "{error}");
}

#[test]
fn two_keys_with_one_fingerprint_are_an_error_and_never_each_others_record() {
    let mut world = World::opened();
    world.claim(1).unwrap();
    let mut twin = *key(1).as_bytes();
    twin[31] ^= 1;
    let twin = RecordKey::from_bytes(twin);
    let put = world.put(in_flight(10));
    let answer = world.ask(&twin, &Swap { expect: None, put: Some(put) });
    assert!(matches!(answer, Err(StoreError::Corrupt(_))), "{answer:?}");
    world.verify();
}
