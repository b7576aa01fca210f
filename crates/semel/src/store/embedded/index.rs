//! Where every current record lies: 32 bytes of memory per record, in shards that are locked one at a time.

use std::hash::{BuildHasherDefault, Hash, Hasher};

use hashbrown::{HashMap, HashSet};
use parking_lot::RwLock;
use semel_core::{record::PhaseKind, scope::RecordKey};

use super::format::UNIT;

const SHARDS: usize = 256;

/// The first half of a record key, which is a digest. Whoever reads a record compares the whole key.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct Fingerprint(pub(super) u128);

impl Fingerprint {
    /// Keeps the order of the keys.
    pub(super) fn of(key: &RecordKey) -> Fingerprint {
        Fingerprint(u128::from_be_bytes(key.as_bytes()[..16].try_into().expect("sixteen bytes of thirty-two")))
    }
}

impl Hash for Fingerprint {
    fn hash<H: Hasher>(&self, state: &mut H) {
        // Already a digest; folding both halves only protects tests that count keys up.
        let (high, low) = ((self.0 >> 64) as u64, low_u64(self.0));
        state.write_u64((high ^ low.rotate_left(29)).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    }
}

/// The hash is the value that it is given.
#[derive(Default)]
pub(super) struct Identity(u64);

impl Hasher for Identity {
    fn finish(&self) -> u64 {
        self.0 ^ (self.0 >> 32)
    }
    fn write(&mut self, _: &[u8]) {
        unreachable!("fingerprints hash as one u64");
    }
    fn write_u64(&mut self, value: u64) {
        self.0 = value;
    }
}

/// Where a record lies and what must be known of it without reading: segment number (24 bits), offset and length (24
/// each, in units of 8 bytes), flags (8), and the millisecond from which it counts as absent (48).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Place(pub(super) u128);

const KIND: u128 = 0b1_0011;
/// The kinds before it have two bits, with flags above them.
const HELD: u128 = 0b1_0000;
const ABANDONED: u128 = 0b100;
const TRIMS: u128 = 0b1000;

impl Place {
    /// Segments are at most this long, so that offsets fit.
    pub(super) const SEGMENT_BYTES_MAX: u64 = (UNIT as u64) << 24;
    pub(super) const SEGMENTS_MAX: u32 = 1 << 24;

    /// `kind: None` stands for a removal, which only hints hold.
    pub(super) fn new(segment: u32, offset: usize, len: usize, kind: Option<PhaseKind>, expires_ms: u64) -> Place {
        debug_assert!(offset.is_multiple_of(UNIT) && len.is_multiple_of(UNIT) && expires_ms < 1 << 48);
        let kind = match kind {
            None => 0,
            Some(kind @ (PhaseKind::InFlight | PhaseKind::Unknown | PhaseKind::Completed)) => kind as u128,
            Some(PhaseKind::Held) => HELD,
        };
        let (offset, len) = ((offset / UNIT) as u128, (len / UNIT) as u128);
        Place(u128::from(segment) << 104 | offset << 80 | len << 56 | kind << 48 | u128::from(expires_ms))
    }
    pub(super) fn segment(self) -> u32 {
        (self.0 >> 104) as u32
    }
    pub(super) fn offset(self) -> usize {
        (self.0 >> 80) as usize % (1 << 24) * UNIT
    }
    /// Padding included.
    pub(super) fn len(self) -> usize {
        (self.0 >> 56) as usize % (1 << 24) * UNIT
    }
    pub(super) fn expires_ms(self) -> u64 {
        low_u64(self.0) & ((1 << 48) - 1)
    }
    pub(super) fn kind(self) -> Option<PhaseKind> {
        match self.0 >> 48 & KIND {
            1 => Some(PhaseKind::InFlight),
            2 => Some(PhaseKind::Unknown),
            3 => Some(PhaseKind::Completed),
            HELD => Some(PhaseKind::Held),
            _ => None,
        }
    }
    /// Written before this opening of the folder.
    pub(super) fn abandoned(self) -> bool {
        self.0 >> 48 & ABANDONED != 0
    }
    /// Loses its content before it expires.
    pub(super) fn trims(self) -> bool {
        self.0 >> 48 & TRIMS != 0
    }
    /// Whether its outcome is not known, or not yet.
    fn is_open(self) -> bool {
        is_open(self.kind())
    }
    pub(super) fn set_abandoned(self) -> Place {
        Place(self.0 | ABANDONED << 48)
    }
    pub(super) fn set_trims(self) -> Place {
        Place(self.0 | TRIMS << 48)
    }
    pub(super) fn in_segment(self, segment: u32) -> Place {
        Place(self.0 & ((1 << 104) - 1) | u128::from(segment) << 104)
    }
}

fn is_open(kind: Option<PhaseKind>) -> bool {
    match kind {
        Some(PhaseKind::InFlight | PhaseKind::Unknown) => true,
        Some(PhaseKind::Completed | PhaseKind::Held) | None => false,
    }
}

#[derive(Default)]
struct Shard {
    places: HashMap<Fingerprint, Place, BuildHasherDefault<Identity>>,
    /// Those in flight and unknown: few among millions, and what operators look for.
    open: HashSet<Fingerprint, BuildHasherDefault<Identity>>,
    /// No record here expires earlier.
    soonest_ms: u64,
}

/// Only what is durable is in here, so whatever is answered from it holds.
pub(super) struct Index {
    shards: Box<[RwLock<Shard>]>,
}

impl Index {
    pub(super) fn new() -> Index {
        Index { shards: (0..SHARDS).map(|_| RwLock::default()).collect() }
    }

    /// Makes room for this many more.
    pub(super) fn reserve(&self, records: usize) {
        for shard in &self.shards {
            shard.write().places.reserve(records / SHARDS);
        }
    }

    pub(super) fn get(&self, at: Fingerprint) -> Option<Place> {
        self.shard(at).read().places.get(&at).copied()
    }

    /// Answers what was there.
    pub(super) fn put(&self, at: Fingerprint, place: Place) -> Option<Place> {
        let mut shard = self.shard(at).write();
        shard.soonest_ms = shard.soonest_ms.min(place.expires_ms());
        let before = shard.places.insert(at, place);
        match (before.is_some_and(Place::is_open), place.is_open()) {
            (false, true) => drop(shard.open.insert(at)),
            (true, false) => drop(shard.open.remove(&at)),
            (false, false) | (true, true) => {}
        }
        before
    }

    /// Answers what was there.
    pub(super) fn remove(&self, at: Fingerprint) -> Option<Place> {
        let mut shard = self.shard(at).write();
        let before = shard.places.remove(&at);
        if before.is_some_and(Place::is_open) {
            shard.open.remove(&at);
        }
        before
    }

    pub(super) fn len(&self) -> usize {
        self.shards.iter().map(|shard| shard.read().places.len()).sum()
    }

    /// Up to `limit` records of `kind` alive at `now_ms`, in ascending order, after `after`.
    pub(super) fn page(
        &self,
        kind: PhaseKind,
        after: Option<Fingerprint>,
        now_ms: u64,
        limit: usize,
    ) -> Vec<(Fingerprint, Place)> {
        let mut page = Vec::new();
        // Shards are in the order of their keys, so the first ones that fill the page are enough.
        let first = after.map_or(0, shard_of);
        for shard in &self.shards[first..] {
            if page.len() >= limit {
                break;
            }
            let start = page.len();
            let is_asked_for = |(at, place): &(Fingerprint, Place)| {
                place.kind() == Some(kind) && place.expires_ms() > now_ms && after.is_none_or(|after| *at > after)
            };
            let shard = shard.read();
            if is_open(Some(kind)) {
                let open = shard.open.iter().filter_map(|at| Some((*at, *shard.places.get(at)?)));
                page.extend(open.filter(is_asked_for));
            } else {
                page.extend(shard.places.iter().map(|(at, place)| (*at, *place)).filter(is_asked_for));
            }
            drop(shard);
            page[start..].sort_unstable_by_key(|(at, _)| *at);
        }
        page.truncate(limit);
        page
    }

    /// Calls `each` with every record, one shard locked at a time.
    pub(super) fn for_each(&self, mut each: impl FnMut(Fingerprint, Place)) {
        for shard in &self.shards {
            shard.read().places.iter().for_each(|(at, place)| each(*at, *place));
        }
    }

    /// Drops up to `limit` records that count as absent at `now_ms`, and answers how many; `dropped` is told of each.
    pub(super) fn sweep(&self, now_ms: u64, limit: usize, mut dropped: impl FnMut(Place)) -> usize {
        let mut left = limit;
        for shard in &self.shards {
            if left == 0 {
                break;
            }
            if shard.read().soonest_ms > now_ms {
                continue;
            }
            let mut shard = shard.write();
            let Shard { places, open, soonest_ms } = &mut *shard;
            *soonest_ms = u64::MAX;
            places.retain(|at, place| {
                if place.expires_ms() > now_ms || left == 0 {
                    *soonest_ms = place.expires_ms().min(*soonest_ms);
                    return true;
                }
                left -= 1;
                dropped(*place);
                if place.is_open() {
                    open.remove(at);
                }
                false
            });
            if shard.places.len() < shard.places.capacity() / 4 {
                let room = shard.places.len() * 2;
                shard.places.shrink_to(room);
            }
            drop(shard);
            // Requests go first: a sweep has all the time in the world.
            std::thread::yield_now();
        }
        limit - left
    }

    fn shard(&self, at: Fingerprint) -> &RwLock<Shard> {
        &self.shards[shard_of(at)]
    }
}

#[expect(clippy::cast_possible_truncation, reason = "the low half is what is wanted")]
fn low_u64(bits: u128) -> u64 {
    bits as u64
}

fn shard_of(at: Fingerprint) -> usize {
    (at.0 >> 120) as usize
}

#[cfg(test)]
mod tests {
    use super::*;
    /// Whatever was put, replaced, removed and swept: a page has what is there, and the set of open ones nothing else.
    #[test]
    fn e11_pages_of_what_is_not_over_have_all_of_it() {
        const KINDS: [PhaseKind; 4] = [PhaseKind::InFlight, PhaseKind::Unknown, PhaseKind::Completed, PhaseKind::Held];
        // A linear congruential generator (Knuth's MMIX).
        let mut state = 7_u64;
        let mut below = |n: u64| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) % n
        };
        let index = Index::new();
        for now_ms in 0..3_000_u64 {
            let at = Fingerprint(u128::from(below(500)) << 118);
            let kind = KINDS[usize::try_from(below(4)).expect("small")];
            match below(10) {
                0 => drop(index.remove(at)),
                1 => drop(index.sweep(now_ms, 5, |_| {})),
                _ => drop(index.put(at, Place::new(1, 0, 8, Some(kind), now_ms + below(2_000)))),
            }
        }
        for kind in KINDS {
            let mut all = Vec::new();
            index.for_each(|at, place| all.extend((place.kind() == Some(kind)).then_some(at)));
            all.sort_unstable();
            let mut paged = Vec::new();
            while let Some((last, _)) = {
                let page = index.page(kind, paged.last().copied(), 0, 7);
                paged.extend(page.iter().map(|(at, _)| *at));
                page.last().copied()
            } {
                assert_eq!(paged.last(), Some(&last));
            }
            assert_eq!(paged, all, "{kind:?}");
        }
        let open: usize = index.shards.iter().map(|shard| shard.read().open.len()).sum();
        let mut counted = 0;
        index.for_each(|_, place| counted += usize::from(place.is_open()));
        assert!(open == counted && counted > 0, "{open} of {counted}");
    }
}
