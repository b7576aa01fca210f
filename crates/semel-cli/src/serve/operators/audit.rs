//! The audit log: every act of an operator, with who and why, in a file that is only ever appended to.
//!
//! An act is written down durably as intended before it is done, and again with what came of it. So whatever becomes of
//! this process, no act was done of which the log says nothing. What only reads is not in it.

use std::{
    fs::{File, OpenOptions},
    io::{self, Read as _, Seek as _, SeekFrom, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::SystemTime,
};

use parking_lot::Mutex;
use semel_core::record::ExchangeId;
use serde::Serialize;

use super::{
    By, Refusal,
    row::{RecordName, StampText, Standing, as_text},
};
use crate::config::ConfigError;

/// Only the user that runs the gateway reads and writes it.
const MODE: u32 = 0o600;

/// The audit log. Cheap to clone.
///
/// The file is opened for every line, so that whoever renames it, to keep it elsewhere, has a new one begin.
#[derive(Clone, Debug)]
pub(crate) struct Audit(Arc<Place>);

#[derive(Debug)]
struct Place {
    path: PathBuf,
    writing: Mutex<()>,
}

/// How far an act has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Stage {
    /// It is about to be done. Nothing after it with the same `act`: the process ended in between, or the log could not be
    /// written; look at the record.
    Intended,
    /// It is done.
    Done,
    /// Nothing was changed.
    Refused,
    /// The store failed, and it may have been done.
    Unknown,
}

/// What is done.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum What {
    /// An outcome is settled.
    Settle,
    /// A guard or slot is released.
    Release,
}

/// One act, as far as it is known.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Act {
    /// Which act: 128 random bits, the same in all its lines.
    #[serde(rename = "act", serialize_with = "as_text")]
    pub id: ExchangeId,
    /// What is done.
    pub what: What,
    /// To which record.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub record: Option<RecordName>,
    /// Which writing of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stamp: Option<StampText>,
    /// Its route.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub route: Option<String>,
    /// Where it stood before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub before: Option<Standing>,
    /// What it is to be: `completed`, or `gone`; of a release what is free, `guard` or `slot`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub after: Option<&'static str>,
    /// The status of the reply that an operator gave.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// Who acts, why, and from where.
    #[serde(flatten)]
    pub by: By,
}

#[derive(Serialize)]
struct Line<'a> {
    time: String,
    stage: Stage,
    #[serde(flatten)]
    act: &'a Act,
    /// Why nothing was changed.
    #[serde(skip_serializing_if = "Option::is_none")]
    refusal: Option<&'a str>,
}

impl Audit {
    /// The log at `path`. That it can be written is tried here, so that nobody learns otherwise in an emergency.
    pub(crate) fn open(path: &Path) -> Result<Audit, ConfigError> {
        let audit = Audit(Arc::new(Place { path: path.to_owned(), writing: Mutex::new(()) }));
        let opened = audit.0.open().map(drop);
        opened.map_err(|error| ConfigError::new(format!("gateway.audit_log = \"{}\": {error}", path.display())))?;
        Ok(audit)
    }

    /// Writes down that an act is about to be done; unless that is durable, it must not be.
    pub(crate) async fn intend(&self, act: &Act) -> Result<(), Refusal> {
        self.write(Stage::Intended, act, None).await.map_err(|error| {
            tracing::error!(target: "semel::audit", %error, path = %self.0.path.display(), "the audit log cannot be written");
            let detail = "the audit log cannot be written, so nothing was changed; see the log of the gateway, and ask again";
            Refusal::new(http::StatusCode::SERVICE_UNAVAILABLE, "audit-unavailable", detail)
        })
    }

    /// Writes down what came of an act.
    pub(crate) async fn conclude(&self, stage: Stage, act: &Act, refusal: Option<&str>) {
        let By { who, why, from } = &act.by;
        let (id, what, after, route) = (act.id, act.what, act.after, act.route.as_deref());
        let record = act.record.map(tracing::field::display);
        tracing::warn!(
            target: "semel::audit",
            act = %id, ?what, ?stage, who, why, %from, record, route, after, refusal,
            "an operator acted"
        );
        if let Err(error) = self.write(stage, act, refusal).await {
            tracing::error!(target: "semel::audit", %error, act = %id, "the audit log lacks what came of an act");
        }
    }

    async fn write(&self, stage: Stage, act: &Act, refusal: Option<&str>) -> io::Result<()> {
        let time = humantime::format_rfc3339_millis(SystemTime::now()).to_string();
        let mut line = serde_json::to_vec(&Line { time, stage, act, refusal })?;
        line.push(b'\n');
        let place = Arc::clone(&self.0);
        let written = tokio::task::spawn_blocking(move || place.append(&line)).await;
        written.unwrap_or_else(|panic| Err(io::Error::other(panic)))
    }
}

impl Place {
    fn append(&self, line: &[u8]) -> io::Result<()> {
        let _one_at_a_time = self.writing.lock();
        let mut file = self.open()?;
        // What a full disk cut short stays a line of its own.
        let is_torn = file.metadata()?.len() > 0 && {
            let mut last = [0];
            file.seek(SeekFrom::End(-1))?;
            file.read_exact(&mut last)?;
            last != *b"\n"
        };
        let line = if is_torn { [b"\n", line].concat() } else { line.to_vec() };
        file.write_all(&line)?;
        file.sync_data()
    }

    fn open(&self) -> io::Result<File> {
        let open = |new| {
            let mut options = OpenOptions::new();
            options.read(true).append(true).mode(MODE);
            if new { options.create_new(true) } else { &mut options }.open(&self.path)
        };
        match open(false) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            opened => return opened,
        }
        let file = open(true)?;
        file.sync_all()?;
        // Its name has to last as well as what is in it.
        let folder = self.path.parent().filter(|folder| !folder.as_os_str().is_empty());
        File::open(folder.unwrap_or(Path::new(".")))?.sync_all()?;
        Ok(file)
    }
}
