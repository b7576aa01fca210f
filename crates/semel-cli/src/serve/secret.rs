//! The secret beside the records: what makes their digests and seals unreadable to whoever has the records only.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    path::Path,
};

use anyhow::Context as _;
use semel_core::scope::Secret;

const FILE: &str = "secret";
const LEN: usize = 32;

/// Reads the secret of a data folder, or makes it at the first start.
///
/// Another secret than the one that the records were written under would make every key look unseen, so a file that is
/// not one is an error and is never replaced.
pub(crate) fn read_or_make(folder: &Path) -> anyhow::Result<Secret> {
    let path = folder.join(FILE);
    match fs::read(&path) {
        Ok(bytes) => {
            let bytes: [u8; LEN] = bytes.as_slice().try_into().ok().with_context(|| {
                format!(
                    "{} has {} bytes and a secret has {LEN}; restore it from a backup: records cannot be read without it",
                    path.display(),
                    bytes.len()
                )
            })?;
            Ok(Secret::from_bytes(bytes))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            make(folder, &path).with_context(|| format!("cannot create {}", path.display()))
        }
        Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
    }
}

/// Durable before it is used: records written under a secret that a power cut takes back would be lost with it.
fn make(folder: &Path, path: &Path) -> anyhow::Result<Secret> {
    let mut bytes = [0; LEN];
    getrandom::fill(&mut bytes).map_err(|error| anyhow::anyhow!("no random bytes: {error}"))?;
    let draft = path.with_extension("new");
    let _ = fs::remove_file(&draft);
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut file = options.open(&draft)?;
    file.write_all(&bytes)?;
    file.sync_all()?;
    // A link refuses to replace: of two first starts at once, one wins and the other is told so.
    fs::hard_link(&draft, path)?;
    fs::remove_file(&draft)?;
    File::open(folder)?.sync_all()?;
    Ok(Secret::from_bytes(bytes))
}
