//! Chance that comes out the same whenever the seed is the same.

use std::{ops::Range, time::Duration};

/// A source of numbers (SplitMix64) that depends on nothing but what it was made from, so that the same request meets
/// the same fate in both storms, in whatever order the requests arrive.
#[derive(Clone, Debug)]
pub(crate) struct Dice {
    state: u64,
}

impl Dice {
    /// The dice of the `nth` thing of that `name`.
    pub(crate) fn new(seed: u64, name: &str, nth: u64) -> Dice {
        let mut dice = Dice { state: seed };
        for word in name.bytes().map(u64::from).chain([u64::MAX, nth]) {
            dice.state = dice.next() ^ word;
        }
        dice
    }

    /// 64 bits.
    pub(crate) fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number under `bound`, which is not zero.
    pub(crate) fn below(&mut self, bound: u32) -> u32 {
        u32::try_from(self.next() % u64::from(bound)).expect("a remainder of a u32 fits a u32")
    }

    /// A duration in the range, in whole milliseconds.
    pub(crate) fn between(&mut self, range: &Range<Duration>) -> Duration {
        let width = range.end.saturating_sub(range.start).as_millis();
        let width = u32::try_from(width).unwrap_or(u32::MAX).max(1);
        range.start + Duration::from_millis(u64::from(self.below(width)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn depends_on_seed_name_and_number() {
        let draw = |seed, name, nth| Dice::new(seed, name, nth).next();
        assert_eq!(draw(7, "order-1", 0), draw(7, "order-1", 0));
        assert_ne!(draw(7, "order-1", 0), draw(8, "order-1", 0));
        assert_ne!(draw(7, "order-1", 0), draw(7, "order-2", 0));
        assert_ne!(draw(7, "order-1", 0), draw(7, "order-1", 1));
    }

    #[test]
    fn spreads_evenly() {
        let hits = (0..10_000).filter(|nth| Dice::new(7, "order", *nth).below(1000) < 100).count();
        assert!((900..1100).contains(&hits), "{hits} of 10000 draws were under a tenth");
    }
}
