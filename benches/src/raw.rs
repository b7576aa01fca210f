//! R0: what the disk can do at best, one 4 KiB durable write after another into blocks that were written before.

use std::{
    fs::{File, OpenOptions},
    os::unix::fs::FileExt as _,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::Context;

const BLOCK: usize = 4096;
const FILE_BYTES: u64 = 64 * 1024 * 1024;

/// The file that probes write into.
pub(crate) struct RawDisk {
    file: File,
    next: u64,
    duration: Duration,
}

impl RawDisk {
    /// Writes the file once, so that no probe pays for allocating blocks.
    pub(crate) fn new(folder: &Path, duration: Duration) -> anyhow::Result<RawDisk> {
        let file = prewritten(&folder.join("raw"), FILE_BYTES)?;
        Ok(RawDisk { file, next: 0, duration })
    }

    /// R0: pwrite + fdatasync of 4 KiB, per second, now.
    pub(crate) fn probe(&mut self) -> anyhow::Result<f64> {
        let block = [0x5a; BLOCK];
        let started = Instant::now();
        let mut writes = 0_u32;
        while started.elapsed() < self.duration {
            self.file.write_all_at(&block, self.next).context("cannot write the raw probe")?;
            self.file.sync_data().context("cannot sync the raw probe")?;
            self.next = (self.next + BLOCK as u64) % FILE_BYTES;
            writes += 1;
        }
        Ok(f64::from(writes) / started.elapsed().as_secs_f64())
    }
}

/// A file of `bytes` whose blocks have all been written: overwriting them touches no metadata.
pub(crate) fn prewritten(path: &Path, bytes: u64) -> anyhow::Result<File> {
    let file = OpenOptions::new().create(true).truncate(true).read(true).write(true).open(path);
    let file = file.with_context(|| format!("cannot make {}", path.display()))?;
    let chunk = vec![0x11; 1024 * 1024];
    let mut at = 0;
    while at < bytes {
        file.write_all_at(&chunk, at).context("cannot pre-write")?;
        at += chunk.len() as u64;
    }
    file.sync_all().context("cannot sync what was pre-written")?;
    Ok(file)
}
