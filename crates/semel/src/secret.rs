//! The secret beside a store on this machine: minted on first use, kept in a file that only its owner may read.

use std::{
    fs::{File, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::OpenOptionsExt,
    path::Path,
};

use semel_core::scope::Secret;

/// Reads the file `secret` in `folder`, or mints it there with mode 0600 if there is none. Creates the folder.
///
/// Without this secret every record in the folder is unreadable, and every key counts as new: keep it with the data.
pub fn secret_in(folder: &Path) -> io::Result<Secret> {
    std::fs::create_dir_all(folder)?;
    let path = folder.join("secret");
    let says =
        |error: io::Error, what: &str| io::Error::new(error.kind(), format!("{what} {}: {error}", path.display()));
    match File::open(&path) {
        Ok(mut file) => {
            let mut bytes = Vec::new();
            file.read_to_end(&mut bytes).map_err(|error| says(error, "cannot read"))?;
            let bytes: [u8; 32] = bytes.try_into().map_err(|bytes: Vec<u8>| {
                let text = format!(
                    "{} has {} bytes, and a secret has 32: restore it from a backup, or move the whole folder away to start with no records",
                    path.display(),
                    bytes.len()
                );
                io::Error::new(io::ErrorKind::InvalidData, text)
            })?;
            Ok(Secret::from_bytes(bytes))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let mut bytes = [0; 32];
            getrandom::fill(&mut bytes).map_err(|error| io::Error::other(error.to_string()))?;
            // Under its own name only once it is whole and durable: half a secret would lock the records out.
            let fresh = folder.join("secret.new");
            let mut options = OpenOptions::new();
            options.write(true).create(true).truncate(true).mode(0o600);
            let mut file = options.open(&fresh).map_err(|error| says(error, "cannot create"))?;
            file.write_all(&bytes)?;
            file.sync_all()?;
            std::fs::rename(&fresh, &path)?;
            File::open(folder)?.sync_all()?;
            Ok(Secret::from_bytes(bytes))
        }
        Err(error) => Err(says(error, "cannot open")),
    }
}
