//! The secret of a gateway: minted on first use beside the records, in a file that only its owner may read, and copied from
//! there to the other gateways of a shared store.

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
    let says = |error: &io::Error, what: &str| says(error, what, &path);
    match File::open(&path) {
        Ok(file) => {
            read(file, &path, "restore it from a backup, or move the whole folder away to start with no records")
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let mut bytes = [0; 32];
            getrandom::fill(&mut bytes).map_err(|error| io::Error::other(error.to_string()))?;
            // Under its own name only once it is whole and durable: half a secret would lock the records out.
            let fresh = folder.join("secret.new");
            let mut options = OpenOptions::new();
            options.write(true).create(true).truncate(true).mode(0o600);
            let mut file = options.open(&fresh).map_err(|error| says(&error, "cannot create"))?;
            file.write_all(&bytes)?;
            file.sync_all()?;
            std::fs::rename(&fresh, &path)?;
            File::open(folder)?.sync_all()?;
            Ok(Secret::from_bytes(bytes))
        }
        Err(error) => Err(says(&error, "cannot open")),
    }
}

/// Reads a secret of 32 bytes from a file, which is never minted: what several gateways have in common comes from one of
/// them, or from an operator.
pub fn secret_from(file: &Path) -> io::Result<Secret> {
    let open = File::open(file).map_err(|error| says(&error, "cannot open", file))?;
    if !open.metadata()?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("{} is no regular file", file.display())));
    }
    read(open, file, "copy the file `secret` from the data folder of another gateway")
}

fn read(file: File, path: &Path, what_to_do: &str) -> io::Result<Secret> {
    let mut bytes = Vec::new();
    // One byte more than a secret has shows that it is none, however long the file is.
    file.take(33).read_to_end(&mut bytes).map_err(|error| says(&error, "cannot read", path))?;
    let bytes: [u8; 32] = bytes.try_into().map_err(|bytes: Vec<u8>| {
        let has = if bytes.len() > 32 { "more than 32".to_owned() } else { bytes.len().to_string() };
        let text = format!("{} has {has} bytes, and a secret has 32: {what_to_do}", path.display());
        io::Error::new(io::ErrorKind::InvalidData, text)
    })?;
    Ok(Secret::from_bytes(bytes))
}

fn says(error: &io::Error, what: &str, path: &Path) -> io::Error {
    io::Error::new(error.kind(), format!("{what} {}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_minted_once_and_copied_as_a_file() {
        let folder = tempfile::tempdir().expect("a folder");
        let minted = secret_in(folder.path()).expect("it is minted");
        let file = folder.path().join("secret");
        let again = [secret_in(folder.path()), secret_from(&file)].map(|secret| secret.expect("it is there").check());
        assert_eq!(again, [minted.check(); 2]);
        let other = tempfile::tempdir().expect("a folder");
        assert_ne!(secret_in(other.path()).expect("another is minted").check(), minted.check());
        let error = |path: &Path| secret_from(path).expect_err("it is none").to_string();
        for (bytes, has) in [(31, "31"), (33, "more than 32"), (4_096, "more than 32"), (0, "0")] {
            std::fs::write(&file, vec![7; bytes]).expect("it is written");
            assert!(error(&file).contains(&format!("has {has} bytes")), "{}", error(&file));
        }
        assert!(error(&folder.path().join("absent")).contains("cannot open"));
        assert!(error(folder.path()).contains("is no regular file"));
    }
}
