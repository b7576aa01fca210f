//! Replays the fuzz corpus, and a fixed set of mutations of it, through the bodies of the fuzz targets.

use std::{fs, path::PathBuf};

#[path = "../../../fuzz/src/targets.rs"]
mod targets;

const MUTATIONS: usize = 3000;

#[test]
fn keys() {
    replay("key", targets::key);
}

#[test]
fn records() {
    replay("record", targets::record);
}

#[test]
fn policies() {
    replay("policy", targets::policy);
}

#[test]
fn json() {
    replay("json", targets::json);
}

fn replay(target: &str, body: fn(&[u8])) {
    let folder: PathBuf = [env!("CARGO_MANIFEST_DIR"), "../../fuzz/corpus", target].iter().collect();
    let mut files: Vec<PathBuf> = fs::read_dir(&folder)
        .unwrap_or_else(|error| panic!("{}: {error}", folder.display()))
        .map(|entry| entry.expect("a readable folder").path())
        .collect();
    files.sort();
    assert!(files.len() >= 5, "{} has seeds", folder.display());
    let corpus: Vec<Vec<u8>> = files.iter().map(|file| fs::read(file).expect("a readable file")).collect();
    // A panic prints its input, to be kept as a seed.
    let run = |data: &[u8]| {
        let caught = std::panic::catch_unwind(|| body(data));
        if let Err(panic) = caught {
            eprintln!("{target}: {}", data.escape_ascii());
            std::panic::resume_unwind(panic);
        }
    };
    corpus.iter().for_each(|data| run(data));
    let mut dice = Dice(0x5e3e_1000 + target.len() as u64);
    for _ in 0..MUTATIONS {
        let mut data = corpus[dice.below(corpus.len())].clone();
        for _ in 0..=dice.below(4) {
            dice.mutate(&mut data, &corpus);
        }
        run(&data);
    }
}

/// A small generator (xorshift64*): the same mutations on every run.
struct Dice(u64);

impl Dice {
    fn roll(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 16
    }

    fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.roll() % end.max(1) as u64).expect("below a usize")
    }

    fn mutate(&mut self, data: &mut Vec<u8>, corpus: &[Vec<u8>]) {
        const TELLING: &[u8] = b"\0\x01\x7f\x80\xff\"\\,;{}[]:=/-.%eE019 \n\t";
        let at = self.below(data.len() + 1);
        let end = (at + 1 + self.below(8)).min(data.len());
        match self.below(6) {
            0 if at < data.len() => data[at] ^= 1 << self.below(8),
            1 if at < data.len() => data[at] = TELLING[self.below(TELLING.len())],
            2 => data.insert(at, TELLING[self.below(TELLING.len())]),
            3 if at < end => drop(data.drain(at..end)),
            4 if at < end => {
                let again = data[at..end].to_vec();
                data.splice(at..at, again);
            }
            _ => {
                let other = &corpus[self.below(corpus.len())];
                let from = self.below(other.len() + 1);
                let to = (from + 1 + self.below(24)).min(other.len());
                let end = if self.below(2) == 0 { at } else { data.len() };
                data.splice(at..end, other[from.min(to)..to].iter().copied());
            }
        }
    }
}
