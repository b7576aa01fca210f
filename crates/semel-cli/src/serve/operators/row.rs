//! What operators may see of a record: never a key, a credential or content.

use std::{fmt, str::FromStr, time::Duration};

use semel_core::{
    record::{ExchangeId, Kept, Phase, PhaseKind, Record, Stamp},
    register::Found,
    scope::RecordKey,
};
use serde::{Serialize, Serializer};

/// Where a record stands, as its callers are told: in flight past its lease, or under a writer that is dead, is unknown.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Standing {
    /// It may be executing now.
    InFlight,
    /// Nobody knows whether its effect happened: what an operator settles.
    Unknown,
    /// Its effect happened.
    Completed,
    /// Not an operation, but a guard and who holds it.
    Guard,
}

impl Standing {
    /// All of them, in the order of lists.
    pub(crate) const ALL: [Standing; 4] = [Standing::InFlight, Standing::Unknown, Standing::Completed, Standing::Guard];

    /// Where a record stands now.
    pub(crate) fn of(found: &Found) -> Standing {
        match found.record.phase {
            Phase::InFlight { .. } if found.is_running() => Standing::InFlight,
            Phase::InFlight { .. } | Phase::Unknown => Standing::Unknown,
            Phase::Completed { .. } => Standing::Completed,
            Phase::Held { .. } => Standing::Guard,
        }
    }

    /// The phases in which a store has such records. In flight comes first: what becomes unknown meanwhile is then seen.
    pub(crate) fn kinds(self) -> &'static [PhaseKind] {
        match self {
            Standing::InFlight => &[PhaseKind::InFlight],
            Standing::Unknown => &[PhaseKind::InFlight, PhaseKind::Unknown],
            Standing::Completed => &[PhaseKind::Completed],
            Standing::Guard => &[PhaseKind::Held],
        }
    }

    /// Its name in the API.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Standing::InFlight => "in-flight",
            Standing::Unknown => "unknown",
            Standing::Completed => "completed",
            Standing::Guard => "guard",
        }
    }
}

impl fmt::Display for Standing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Standing {
    type Err = String;
    fn from_str(text: &str) -> Result<Standing, String> {
        Standing::ALL
            .into_iter()
            .find(|standing| standing.as_str() == text)
            .ok_or_else(|| format!("expected in-flight, unknown, completed or guard, found \"{text}\""))
    }
}

/// A record key in hexadecimal, as operators name a record.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct RecordName(pub RecordKey);

impl fmt::Display for RecordName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.as_bytes().iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl FromStr for RecordName {
    type Err = String;
    fn from_str(text: &str) -> Result<RecordName, String> {
        let bytes = hex::<{ RecordKey::LEN }>(text);
        bytes
            .map(|bytes| RecordName(RecordKey::from_bytes(bytes)))
            .ok_or_else(|| format!("expected the name of a record: {} hexadecimal digits", RecordKey::LEN * 2))
    }
}

impl Serialize for RecordName {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// The stamp of a record's last write, as operators say which writing of it they saw (a strong validator, RFC 9110
/// section 8.8.1).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct StampText(pub Stamp);

impl fmt::Display for StampText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.0.exchange, self.0.write)
    }
}

impl FromStr for StampText {
    type Err = String;
    fn from_str(text: &str) -> Result<StampText, String> {
        let stamp = || {
            let (exchange, write) = text.split_once('-')?;
            Some(Stamp { exchange: exchange_id(exchange)?, write: write.parse().ok()? })
        };
        stamp().map(StampText).ok_or_else(|| "expected a stamp as it was shown, such as \"00c0..e1-2\"".to_owned())
    }
}

impl Serialize for StampText {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Reads an exchange id as logs and problems show it: 32 hexadecimal digits.
pub(crate) fn exchange_id(text: &str) -> Option<ExchangeId> {
    hex::<16>(text).map(|bytes| ExchangeId(u128::from_be_bytes(bytes)))
}

fn hex<const LEN: usize>(text: &str) -> Option<[u8; LEN]> {
    let digits = text.as_bytes();
    if digits.len() != LEN * 2 {
        return None;
    }
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let mut bytes = [0; LEN];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Some(bytes)
}

/// Which records are listed; what is `None` does not matter.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Filter {
    /// Where they stand.
    pub phase: Option<Standing>,
    /// The route that covers them, by its name.
    pub route: Option<String>,
    /// Whose they are, by the label of the principal.
    pub principal: Option<String>,
    /// Written longer ago than this.
    pub older_than: Option<Duration>,
    /// Written less long ago than this.
    pub younger_than: Option<Duration>,
}

impl Filter {
    /// The phases to look through, in their order.
    pub(crate) fn kinds(&self) -> &'static [PhaseKind] {
        const ALL: [PhaseKind; 4] = [PhaseKind::InFlight, PhaseKind::Unknown, PhaseKind::Completed, PhaseKind::Held];
        self.phase.map_or(&ALL, Standing::kinds)
    }

    /// Whether a record is one of them.
    pub(crate) fn takes(&self, row: &Row) -> bool {
        let Filter { phase, route, principal, older_than, younger_than } = self;
        phase.is_none_or(|phase| row.phase == phase)
            && route.as_ref().is_none_or(|route| row.route.as_ref() == Some(route))
            && principal.as_ref().is_none_or(|principal| row.principal.as_ref() == Some(principal))
            && older_than.is_none_or(|than| row.age.0 > than)
            && younger_than.is_none_or(|than| row.age.0 < than)
    }
}

/// Where a page ended, as `<phase>.<record>`: opaque to whoever goes on from there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Cursor {
    /// The phase that was being looked through.
    pub kind: PhaseKind,
    /// The last record that was looked at; `None`: before the first.
    pub after: Option<RecordKey>,
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.", self.kind as u8)?;
        self.after.map_or(Ok(()), |after| fmt::Display::fmt(&RecordName(after), f))
    }
}

impl FromStr for Cursor {
    type Err = String;
    fn from_str(text: &str) -> Result<Cursor, String> {
        let cursor = || {
            let (kind, after) = text.split_once('.')?;
            let kind = [PhaseKind::InFlight, PhaseKind::Unknown, PhaseKind::Completed, PhaseKind::Held]
                .into_iter()
                .find(|known| (*known as u8).to_string() == kind)?;
            let after = if after.is_empty() { None } else { Some(after.parse::<RecordName>().ok()?.0) };
            Some(Cursor { kind, after })
        };
        cursor().ok_or_else(|| "expected what an earlier page said in \"next\"".to_owned())
    }
}

impl Serialize for Cursor {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// A part of a list.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Page {
    /// What was found.
    pub records: Vec<Row>,
    /// Where to go on; `None`: this was the last page. A page may be short, or empty, and still have a next one: only so
    /// many records are looked at for one page.
    pub next: Option<Cursor>,
}

/// A duration in seconds, to the millisecond.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct Seconds(pub Duration);

impl Serialize for Seconds {
    #[expect(clippy::cast_precision_loss, reason = "milliseconds of centuries fit")]
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_f64(self.0.as_millis() as f64 / 1_000.0)
    }
}

/// One record in a list.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub(crate) struct Row {
    /// Its name.
    pub record: RecordName,
    /// Where it stands.
    pub phase: Standing,
    /// The name of its route; `None` where the record does not say.
    pub route: Option<String>,
    /// The label of who asked: the first bytes of a keyed digest.
    pub principal: Option<String>,
    /// The how-manieth execution it is about.
    pub attempt: u32,
    /// Since its last write.
    #[serde(rename = "age_seconds")]
    pub age: Seconds,
    /// Until it is forgotten.
    #[serde(rename = "forgotten_in_seconds")]
    pub left: Seconds,
    /// The exchange of its last write.
    #[serde(serialize_with = "as_text")]
    pub exchange: ExchangeId,
    /// The status of the first response, where that is known.
    pub status: Option<u16>,
    /// Whether a retry can be told that response.
    pub reply_kept: bool,
    /// Whether it is to hold a guard.
    pub guarded: bool,
    /// The trace of the first request.
    pub trace: Option<String>,
    /// Its last write, to be named by whoever changes it.
    pub stamp: StampText,
}

pub(super) fn as_text<S: Serializer>(exchange: &ExchangeId, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(exchange)
}

impl Row {
    /// Whether a retry can be told the first response.
    pub(crate) fn is_kept(record: &Record) -> bool {
        match &record.phase {
            Phase::Completed { kept, .. } => !matches!(kept, Kept::Omitted { .. }),
            Phase::InFlight { .. } | Phase::Unknown | Phase::Held { .. } => false,
        }
    }

    /// What may be seen of a record.
    pub(crate) fn of(record: RecordKey, found: &Found) -> Row {
        let kept = match &found.record.phase {
            Phase::Completed { kept, .. } => Some(kept),
            Phase::InFlight { .. } | Phase::Unknown | Phase::Held { .. } => None,
        };
        let about = found.record.about.as_deref();
        Row {
            record: RecordName(record),
            phase: Standing::of(found),
            route: about.map(|about| about.route.clone()),
            principal: about.map(|about| format!("{:016x}", u64::from_be_bytes(about.principal))),
            attempt: found.record.attempt,
            age: Seconds(found.age),
            left: Seconds(found.record.retention.saturating_sub(found.age)),
            exchange: found.stamp.exchange,
            status: kept.map(Kept::status),
            reply_kept: Row::is_kept(&found.record),
            guarded: found.record.guard.is_some(),
            trace: about.and_then(|about| about.trace).map(|trace| format!("{:032x}", trace.trace_id)),
            stamp: StampText(found.stamp),
        }
    }
}
