//! How the explorer tells worlds apart, quickly in unoptimised builds too.

use std::{
    fmt,
    hash::{Hash, Hasher},
    rc::Rc,
};

/// A part of the world that most moves leave alone: shared, and hashed once.
#[derive(Clone)]
pub(super) struct Hashed<T>(Rc<(u128, T)>);

impl<T: Hash> Hashed<T> {
    pub(super) fn new(value: T) -> Hashed<T> {
        Hashed(Rc::new((digest(&value), value)))
    }
}

impl<T> std::ops::Deref for Hashed<T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.0.1
    }
}

impl<T> PartialEq for Hashed<T> {
    fn eq(&self, other: &Hashed<T>) -> bool {
        self.0.0 == other.0.0
    }
}

impl<T> Hash for Hashed<T> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u128(self.0.0);
    }
}

impl<T: fmt::Debug> fmt::Debug for Hashed<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.1.fmt(f)
    }
}

/// 128 bits that tell two values apart.
pub(super) fn digest(value: &impl Hash) -> u128 {
    let mut mixer = Mixer(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835);
    value.hash(&mut mixer);
    mixer.write_u128(0x2545_f491_4f6c_dd1d);
    mixer.0
}

/// 128 bits, quick without optimisation: among ten million states two collide with a chance of about 1 to 10^24.
struct Mixer(u128);

impl Hasher for Mixer {
    fn finish(&self) -> u64 {
        u64::try_from(self.0 >> 64).expect("the upper half")
    }
    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(16) {
            let mut word = [0; 16];
            word[..chunk.len()].copy_from_slice(chunk);
            self.write_u128(u128::from_le_bytes(word));
        }
    }
    fn write_u128(&mut self, word: u128) {
        let mixed = (self.0 ^ word).wrapping_mul(0xda94_2042_e4dd_58b5_2545_f491_4f6c_dd1d_u128 | 1);
        self.0 = mixed ^ (mixed >> 67);
    }
    fn write_u8(&mut self, word: u8) {
        self.write_u128(word.into());
    }
    fn write_u16(&mut self, word: u16) {
        self.write_u128(word.into());
    }
    fn write_u32(&mut self, word: u32) {
        self.write_u128(word.into());
    }
    fn write_u64(&mut self, word: u64) {
        self.write_u128(word.into());
    }
    fn write_usize(&mut self, word: usize) {
        self.write_u128(word as u128);
    }
}
