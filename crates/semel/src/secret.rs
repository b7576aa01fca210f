//! Secrets as files: minted on first use beside the records, in a file that only its owner may read, copied from there to
//! the other gateways of a shared store, and joined by sealing secrets that an operator exchanges.

use std::{
    fs::{File, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

use semel_core::{scope::Secret, seal::Sealing};

/// The length of a secret in bytes.
const SECRET_BYTES: usize = 32;
/// The permissions that others must not have on a secret.
const MODE_OF_OTHERS: u32 = 0o007;

/// Reads the file `secret` in `folder`, or mints it there with mode 0600 if there is none. Creates the folder.
///
/// Without this secret every record in the folder is unreadable, and every key counts as new: keep it with the data.
pub fn secret_in(folder: &Path) -> io::Result<Secret> {
    std::fs::create_dir_all(folder)?;
    let path = folder.join("secret");
    match File::open(&path) {
        Ok(file) => {
            let what_to_do = "restore it from a backup, or move the whole folder away to start with no records";
            read(file, &path, what_to_do).map(Secret::from_bytes)
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let bytes = random()?;
            // Under its own name only once it is whole and durable: half a secret would lock the records out.
            let fresh = folder.join("secret.new");
            let mut options = OpenOptions::new();
            options.write(true).create(true).truncate(true);
            write(&options, &fresh, &bytes)?;
            std::fs::rename(&fresh, &path)?;
            File::open(folder)?.sync_all()?;
            Ok(Secret::from_bytes(bytes))
        }
        Err(error) => Err(says(&error, "cannot open", &path)),
    }
}

/// Reads a secret of 32 bytes from a file, which is never minted: what several gateways have in common comes from one of
/// them, or from an operator.
pub fn secret_from(file: &Path) -> io::Result<Secret> {
    bytes_from(file, "copy the file `secret` from the data folder of another gateway").map(Secret::from_bytes)
}

/// Reads sealing secrets from files: the first is to seal, and all of them open.
pub fn sealing_from(files: &[PathBuf]) -> io::Result<Sealing> {
    let what_to_do = "make one with `semel secret new`";
    let secrets: io::Result<Vec<[u8; SECRET_BYTES]>> = files.iter().map(|file| bytes_from(file, what_to_do)).collect();
    Sealing::of(&secrets?).map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))
}

/// Mints a secret in a new file with mode 0600. A file that is there stays as it is.
pub fn mint_secret(file: &Path) -> io::Result<()> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    write(&options, file, &random()?)?;
    let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(folder)?.sync_all()
}

/// Whether the records in `folder` are named with this secret; the first secret that asks is the one.
///
/// A secret that was lost and minted anew, or came from elsewhere, would make every key count as new.
pub fn agrees_with_folder(secret: &Secret, folder: &Path) -> io::Result<bool> {
    let path = folder.join("secret.check");
    let check: String = secret.check().iter().flat_map(|byte| [hex(byte >> 4), hex(byte & 15)]).collect();
    match std::fs::read_to_string(&path) {
        Ok(agreed) => Ok(agreed.trim() == check),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            std::fs::create_dir_all(folder)?;
            let fresh = folder.join("secret.check.new");
            let mut options = OpenOptions::new();
            options.write(true).create(true).truncate(true);
            write(&options, &fresh, check.as_bytes())?;
            std::fs::rename(&fresh, &path)?;
            File::open(folder)?.sync_all()?;
            Ok(true)
        }
        Err(error) => Err(says(&error, "cannot read", &path)),
    }
}

fn hex(digit: u8) -> char {
    char::from_digit(digit.into(), 16).expect("it is below 16")
}

fn random() -> io::Result<[u8; SECRET_BYTES]> {
    let mut bytes = [0; SECRET_BYTES];
    getrandom::fill(&mut bytes).map_err(|error| io::Error::other(error.to_string()))?;
    Ok(bytes)
}

/// Writes a file that nobody else may read, durably.
fn write(options: &OpenOptions, path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut options = options.clone();
    let mut file = options.mode(0o600).open(path).map_err(|error| says(&error, "cannot create", path))?;
    file.write_all(bytes)?;
    file.sync_all()
}

fn bytes_from(file: &Path, what_to_do: &str) -> io::Result<[u8; SECRET_BYTES]> {
    // What waits for a writer, such as a named pipe, must not hold up the start.
    let metadata = std::fs::metadata(file).map_err(|error| says(&error, "cannot open", file))?;
    if !metadata.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("{} is no regular file", file.display())));
    }
    let open = File::open(file).map_err(|error| says(&error, "cannot open", file))?;
    read(open, file, what_to_do)
}

fn read(file: File, path: &Path, what_to_do: &str) -> io::Result<[u8; SECRET_BYTES]> {
    let mode = file.metadata()?.permissions().mode();
    if mode & MODE_OF_OTHERS != 0 {
        let text = format!("{} has mode {:03o}, open to others: run chmod 600", path.display(), mode & 0o777);
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, text));
    }
    let mut bytes = Vec::new();
    // One byte more than a secret has shows that it is none, however long the file is.
    file.take(SECRET_BYTES as u64 + 1).read_to_end(&mut bytes).map_err(|error| says(&error, "cannot read", path))?;
    bytes.try_into().map_err(|bytes: Vec<u8>| {
        let has = if bytes.len() > SECRET_BYTES { "more than 32".to_owned() } else { bytes.len().to_string() };
        let text = format!("{} has {has} bytes, and a secret has 32: {what_to_do}", path.display());
        io::Error::new(io::ErrorKind::InvalidData, text)
    })
}

fn says(error: &io::Error, what: &str, path: &Path) -> io::Error {
    io::Error::new(error.kind(), format!("{what} {}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chmod(path: &Path, mode: u32) {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).expect("it is ours");
    }

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

    #[test]
    fn sc11_a_secret_that_others_may_read_is_refused() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("secret");
        secret_in(folder.path()).expect("it is minted");
        assert_eq!(std::fs::metadata(&file).expect("it is there").permissions().mode() & 0o777, 0o600);
        for (mode, is_fine) in [(0o600, true), (0o400, true), (0o640, true), (0o644, false), (0o604, false)] {
            chmod(&file, mode);
            let said = [
                secret_in(folder.path()).map(|_| ()),
                secret_from(&file).map(|_| ()),
                sealing_from(std::slice::from_ref(&file)).map(|_| ()),
            ];
            for said in said {
                assert_eq!(said.is_ok(), is_fine, "{mode:o}: {said:?}");
                assert!(said.is_ok() || said.is_err_and(|error| error.to_string().contains("open to others")));
            }
        }
    }

    #[test]
    fn a_minted_file_is_never_replaced() {
        let folder = tempfile::tempdir().expect("a folder");
        let files = ["new", "old"].map(|name| folder.path().join(name));
        for file in &files {
            mint_secret(file).expect("it is minted");
            let bytes = std::fs::read(file).expect("it is there");
            let error = mint_secret(file).expect_err("it is there").to_string();
            assert!(error.contains("cannot create"), "{error}");
            assert_eq!(std::fs::read(file).expect("it is there"), bytes);
        }
        let ids =
            |files: &[PathBuf]| sealing_from(files).map(|sealing| format!("{sealing:?}")).map_err(|e| e.to_string());
        let both = ids(&files).expect("they differ");
        assert_eq!(both.len(), "[12345678, 12345678]".len());
        assert_ne!(ids(&[files[1].clone(), files[0].clone()]).expect("they differ"), both);
        assert_eq!(
            ids(&[files[0].clone(), files[0].clone()]),
            Err("the sealing secrets 1 and 2 are the same".to_owned())
        );
        assert!(ids(&[]).is_err_and(|error| error.contains("1 to 16")));
    }

    /// A lost secret is missed, and not minted anew under records that nobody finds then.
    #[test]
    fn a_folder_has_one_secret_for_life() {
        let folder = tempfile::tempdir().expect("a folder");
        let secret = secret_in(folder.path()).expect("it is minted");
        for _ in 0..2 {
            assert!(agrees_with_folder(&secret, folder.path()).expect("it is written"));
        }
        std::fs::remove_file(folder.path().join("secret")).expect("it is lost");
        let minted = secret_in(folder.path()).expect("it is minted");
        assert!(!agrees_with_folder(&minted, folder.path()).expect("it is read"));
        assert!(agrees_with_folder(&secret, folder.path()).expect("it is read"));
    }
}
