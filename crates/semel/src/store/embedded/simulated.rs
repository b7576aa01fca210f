//! A disk in memory that fails on demand: it loses what was not made durable, tears writes at sectors, fills up, and
//! refuses any single write or barrier.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use parking_lot::Mutex;

use super::disk::{Disk, DiskFile, FolderLock};

const SECTOR: usize = 512;

/// What happens at the operation that a fault was planned for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    /// The machine stops during it: that operation and every later one fails.
    Crash,
    /// It fails half done. What a failed barrier should have made durable stays readable and never becomes durable,
    /// as on Linux.
    Io,
    /// It fails half done, for lack of room.
    Full,
}

/// What a [`SimulatedDisk`] holds after a crash.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Survival {
    /// Only what was made durable.
    Durable,
    /// A random part of the sectors and names that were not, chosen by this seed.
    Torn(u64),
    /// All that the kernel would have written in time.
    Written,
    /// The process died and the machine did not: what was written is readable, durable or not.
    Cached,
}

/// See the module.
#[derive(Clone, Debug, Default)]
pub struct SimulatedDisk(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    files: BTreeMap<u64, Content>,
    names: BTreeMap<PathBuf, u64>,
    durable_names: BTreeMap<PathBuf, u64>,
    /// The names after each change since the folder was made durable.
    names_since: Vec<BTreeMap<PathBuf, u64>>,
    next_file: u64,
    operations: u64,
    fault: Option<(u64, Fault)>,
    crashed: bool,
    locked: BTreeSet<PathBuf>,
}

#[derive(Clone, Debug, Default)]
struct Content {
    cached: Vec<u8>,
    durable: Vec<u8>,
    /// Written since it was made durable.
    since: Vec<Change>,
}

#[derive(Clone, Debug)]
enum Change {
    Write { offset: usize, bytes: Vec<u8> },
    SetLen(usize),
}

impl Change {
    fn apply(&self, to: &mut Vec<u8>) {
        match self {
            Change::Write { offset, bytes } => {
                if to.len() < offset + bytes.len() {
                    to.resize(offset + bytes.len(), 0);
                }
                to[*offset..offset + bytes.len()].copy_from_slice(bytes);
            }
            Change::SetLen(len) => to.resize(*len, 0),
        }
    }
}

impl SimulatedDisk {
    /// An empty disk.
    pub fn new() -> SimulatedDisk {
        SimulatedDisk::default()
    }

    /// Plans a fault at the operation with this number, counted from 0.
    pub fn plan(&self, operation: u64, fault: Fault) {
        self.0.lock().fault = Some((operation, fault));
    }

    /// How many operations that write or make durable were asked for.
    pub fn operations(&self) -> u64 {
        self.0.lock().operations
    }

    /// Whether the planned crash has happened.
    pub fn crashed(&self) -> bool {
        self.0.lock().crashed
    }

    /// What a machine that starts again finds. The disk that crashed stays as it is.
    #[must_use]
    pub fn restart(&self, survival: Survival) -> SimulatedDisk {
        let state = self.0.lock();
        let mut coin = Coin(match survival {
            Survival::Torn(seed) => seed.wrapping_mul(2).wrapping_add(1),
            Survival::Durable | Survival::Written | Survival::Cached => 1,
        });
        let names = match survival {
            Survival::Durable => state.durable_names.clone(),
            Survival::Written | Survival::Cached => state.names.clone(),
            // A journal keeps the order of changes to names.
            Survival::Torn(_) => match coin.below(state.names_since.len() + 1) {
                0 => state.durable_names.clone(),
                n => state.names_since[n - 1].clone(),
            },
        };
        let files = state.files.iter().map(|(id, content)| (*id, content.after(survival, &mut coin))).collect();
        let durable_names = if survival == Survival::Cached { state.durable_names.clone() } else { names.clone() };
        let names_since = if survival == Survival::Cached { state.names_since.clone() } else { Vec::new() };
        SimulatedDisk(Arc::new(Mutex::new(State {
            files,
            names,
            durable_names,
            names_since,
            next_file: state.next_file,
            ..State::default()
        })))
    }

    /// The bytes of a file, to be damaged by tests.
    pub fn edit<T>(&self, path: &Path, edit: impl FnOnce(&mut Vec<u8>) -> T) -> T {
        let mut state = self.0.lock();
        let id = *state.names.get(path).expect("the file is there");
        let content = state.files.get_mut(&id).expect("names lead to files");
        let result = edit(&mut content.cached);
        content.durable.clone_from(&content.cached);
        result
    }

    fn change<T>(
        &self,
        half: impl FnOnce(&mut State, Fault),
        whole: impl FnOnce(&mut State) -> io::Result<T>,
    ) -> io::Result<T> {
        let mut state = self.0.lock();
        if state.crashed {
            return Err(io::Error::other("crashed"));
        }
        let operation = state.operations;
        state.operations += 1;
        match state.fault {
            Some((at, fault)) if at == operation => {
                half(&mut state, fault);
                Err(match fault {
                    Fault::Crash => {
                        state.crashed = true;
                        io::Error::other("crashed")
                    }
                    Fault::Io => io::Error::from_raw_os_error(5),
                    Fault::Full => io::ErrorKind::StorageFull.into(),
                })
            }
            Some(_) | None => whole(&mut state),
        }
    }

    fn change_names<T>(&self, change: impl FnOnce(&mut State) -> io::Result<T>) -> io::Result<T> {
        self.change(
            |_, _| {},
            |state| {
                let result = change(state)?;
                let names = state.names.clone();
                state.names_since.push(names);
                Ok(result)
            },
        )
    }
}

impl Content {
    fn after(&self, survival: Survival, coin: &mut Coin) -> Content {
        if survival == Survival::Cached {
            return self.clone();
        }
        let mut bytes = self.durable.clone();
        for change in &self.since {
            match (survival, change) {
                (Survival::Durable | Survival::Cached, _) => {}
                (Survival::Written, change) => change.apply(&mut bytes),
                (Survival::Torn(_), Change::SetLen(_)) => {
                    if coin.below(2) == 0 {
                        change.apply(&mut bytes);
                    }
                }
                (Survival::Torn(_), Change::Write { offset, bytes: written }) => {
                    let mut at = 0;
                    while at < written.len() {
                        let end = ((offset + at) / SECTOR * SECTOR + SECTOR - offset).min(written.len());
                        if coin.below(2) == 0 {
                            Change::Write { offset: offset + at, bytes: written[at..end].to_vec() }.apply(&mut bytes);
                        }
                        at = end;
                    }
                }
            }
        }
        Content { cached: bytes.clone(), durable: bytes, since: Vec::new() }
    }
}

impl Disk for SimulatedDisk {
    fn create_folder(&self, _: &Path) -> io::Result<()> {
        Ok(())
    }

    fn list(&self, folder: &Path) -> io::Result<Vec<String>> {
        let state = self.0.lock();
        let names = state.names.keys().filter_map(|path| path.strip_prefix(folder).ok());
        Ok(names.map(|name| name.display().to_string()).collect())
    }

    fn sync_folder(&self, _: &Path) -> io::Result<()> {
        self.change(
            |_, _| {},
            |state| {
                state.durable_names.clone_from(&state.names);
                state.names_since.clear();
                Ok(())
            },
        )
    }

    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        let id = self.change_names(|state| {
            let id = state.next_file;
            state.next_file += 1;
            state.files.insert(id, Content::default());
            state.names.insert(path.to_owned(), id);
            Ok(id)
        })?;
        Ok(Arc::new(SimulatedFile { disk: self.clone(), id }))
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        let id = *self.0.lock().names.get(path).ok_or(io::ErrorKind::NotFound)?;
        Ok(Arc::new(SimulatedFile { disk: self.clone(), id }))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.change_names(|state| {
            let id = state.names.remove(from).ok_or(io::ErrorKind::NotFound)?;
            state.names.insert(to.to_owned(), id);
            Ok(())
        })
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.change_names(|state| state.names.remove(path).map(|_| ()).ok_or(io::ErrorKind::NotFound.into()))
    }

    fn lock(&self, path: &Path) -> io::Result<Option<Box<dyn FolderLock>>> {
        let taken = self.0.lock().locked.insert(path.to_owned());
        Ok(taken.then(|| Box::new(SimulatedLock { disk: self.clone(), path: path.to_owned() }) as Box<dyn FolderLock>))
    }
}

#[derive(Debug)]
struct SimulatedFile {
    disk: SimulatedDisk,
    id: u64,
}

impl SimulatedFile {
    fn content<'a>(&self, state: &'a mut State) -> &'a mut Content {
        state.files.get_mut(&self.id).expect("files are never forgotten")
    }

    fn apply(&self, state: &mut State, change: Change) {
        let content = self.content(state);
        change.apply(&mut content.cached);
        content.since.push(change);
    }
}

impl DiskFile for SimulatedFile {
    fn len(&self) -> io::Result<u64> {
        Ok(self.content(&mut self.disk.0.lock()).cached.len() as u64)
    }

    fn read_at(&self, into: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut state = self.disk.0.lock();
        let cached = &self.content(&mut state).cached;
        let start = usize::try_from(offset).map_err(io::Error::other)?.min(cached.len());
        let len = into.len().min(cached.len() - start);
        into[..len].copy_from_slice(&cached[start..start + len]);
        Ok(len)
    }

    fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let offset = usize::try_from(offset).map_err(io::Error::other)?;
        let write = |len: usize| Change::Write { offset, bytes: bytes[..len].to_vec() };
        self.disk.change(
            |state, fault| match fault {
                // The part that arrives is chosen by what survives.
                Fault::Crash => self.apply(state, write(bytes.len())),
                // All but the last page, which may hold no more than padding.
                Fault::Io | Fault::Full => {
                    self.apply(state, write((bytes.len() / 2).max(bytes.len().saturating_sub(4096 / 2))));
                }
            },
            |state| {
                self.apply(state, write(bytes.len()));
                Ok(())
            },
        )
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let len = usize::try_from(len).map_err(io::Error::other)?;
        self.disk.change(
            |_, _| {},
            |state| {
                self.apply(state, Change::SetLen(len));
                Ok(())
            },
        )
    }

    fn sync(&self) -> io::Result<()> {
        self.disk.change(
            |state, fault| match fault {
                Fault::Crash => {}
                Fault::Io | Fault::Full => self.content(state).since.clear(),
            },
            |state| {
                let content = self.content(state);
                for change in std::mem::take(&mut content.since) {
                    change.apply(&mut content.durable);
                }
                Ok(())
            },
        )
    }
}

#[derive(Debug)]
struct SimulatedLock {
    disk: SimulatedDisk,
    path: PathBuf,
}

impl FolderLock for SimulatedLock {}

impl Drop for SimulatedLock {
    fn drop(&mut self) {
        self.disk.0.lock().locked.remove(&self.path);
    }
}

/// A small deterministic generator: tests must repeat.
#[derive(Debug)]
struct Coin(u64);

impl Coin {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = self.0;
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((x ^ (x >> 31)) >> 33).expect("31 bits") % n
    }
}
