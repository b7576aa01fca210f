//! Faults that whoever tests a client asks for: each is met by the next requests for one operation, and used up.

use std::{collections::BTreeMap, time::Duration};

use http::StatusCode;
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

/// What goes wrong.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Fault {
    /// The connection closes and nothing was done.
    DropBefore,
    /// Everything is done, and the connection closes instead of an answer.
    DropAfter,
    /// This status, and nothing was done.
    StatusBefore(StatusCode),
    /// Everything is done, and this status is the answer.
    StatusAfter(StatusCode),
    /// Everything is done, and the answer comes this much later.
    Delay(Duration),
    /// Everything is done, and no answer ever comes.
    Stall,
}

/// Their names, for whoever spelt one wrong.
pub(crate) const KINDS: &str = "drop_before, drop_after, status_before:<code>, status_after:<code>, delay, stall";
/// The longest delay.
pub(crate) const DELAY_MS_MAX: u64 = 10 * 60 * 1_000;
/// The most requests that one fault is for.
pub(crate) const TIMES_MAX: u64 = 1_000_000;
/// The most faults that wait at once.
const WAITING_MAX: usize = 10_000;

impl Fault {
    /// Reads a kind with its duration, which only `delay` uses: whoever always sends all members may. The error says what
    /// would be right.
    pub(crate) fn parse(kind: &str, ms: Option<u64>) -> Result<Fault, String> {
        Ok(match kind.split_once(':') {
            None => match kind {
                "drop_before" => Fault::DropBefore,
                "drop_after" => Fault::DropAfter,
                "stall" => Fault::Stall,
                "delay" => {
                    let ms = ms.ok_or("\"delay\" needs \"ms\", the delay in milliseconds")?;
                    if ms > DELAY_MS_MAX {
                        return Err(format!("\"ms\" is at most {DELAY_MS_MAX}"));
                    }
                    Fault::Delay(Duration::from_millis(ms))
                }
                _ => return Err(unknown(kind)),
            },
            Some(("status_before", code)) => Fault::StatusBefore(status(code)?),
            Some(("status_after", code)) => Fault::StatusAfter(status(code)?),
            Some(_) => return Err(unknown(kind)),
        })
    }
}

fn unknown(kind: &str) -> String {
    format!("there is no kind \"{kind}\"; there are {KINDS}")
}

fn status(code: &str) -> Result<StatusCode, String> {
    match code.parse::<u16>().ok().filter(|code| (400..=599).contains(code)) {
        Some(code) => Ok(StatusCode::from_u16(code).expect("every number from 400 to 599 is a status")),
        None => Err(format!("\"{code}\" is no status of an error; say a number from 400 to 599")),
    }
}

/// Vendor and operation.
type Met = (&'static str, String);

/// The faults that wait for their requests.
#[derive(Debug, Default)]
pub(crate) struct Faults {
    waiting: Mutex<BTreeMap<Met, Vec<(Fault, u64)>>>,
    /// Cuts delays and stalls short when the process is to end.
    pub(crate) ending: CancellationToken,
}

impl Faults {
    /// The next `times` requests of the vendor for `op` meet `fault`, after those that were asked for before.
    pub(crate) fn add(&self, vendor: &'static str, op: String, fault: Fault, times: u64) -> Result<(), String> {
        let mut waiting = self.waiting.lock();
        if waiting.values().map(Vec::len).sum::<usize>() >= WAITING_MAX {
            return Err(format!("{WAITING_MAX} faults wait already; DELETE /_sandbox/faults forgets them"));
        }
        waiting.entry((vendor, op)).or_default().push((fault, times));
        Ok(())
    }

    /// Forgets all of them.
    pub(crate) fn clear(&self) {
        self.waiting.lock().clear();
    }

    /// The fault that a request meets, which is one less from now on.
    pub(crate) fn take(&self, vendor: &'static str, op: String) -> Option<Fault> {
        let mut waiting = self.waiting.lock();
        let of_operation = waiting.get_mut(&(vendor, op))?;
        let (fault, times) = of_operation.first_mut()?;
        let fault = *fault;
        *times -= 1;
        if *times == 0 {
            of_operation.remove(0);
        }
        Some(fault)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_read_and_wrong_ones_explained() {
        let right = [
            ("drop_before", None, Fault::DropBefore),
            ("drop_after", None, Fault::DropAfter),
            ("status_before:503", None, Fault::StatusBefore(StatusCode::SERVICE_UNAVAILABLE)),
            ("status_after:500", None, Fault::StatusAfter(StatusCode::INTERNAL_SERVER_ERROR)),
            ("delay", Some(20), Fault::Delay(Duration::from_millis(20))),
            ("stall", None, Fault::Stall),
            ("stall", Some(0), Fault::Stall),
        ];
        for (kind, ms, fault) in right {
            assert_eq!(Fault::parse(kind, ms), Ok(fault), "{kind}");
        }
        let wrong = [
            ("drop", None, "there is no kind"),
            ("status_before", None, "there is no kind"),
            ("status_before:200", None, "is no status of an error"),
            ("status_after:x", None, "is no status of an error"),
            ("delay", None, "needs \"ms\""),
            ("delay", Some(DELAY_MS_MAX + 1), "at most"),
        ];
        for (kind, ms, says) in wrong {
            let error = Fault::parse(kind, ms).unwrap_err();
            assert!(error.contains(says), "{kind}: {error}");
        }
    }

    #[test]
    fn a_fault_is_met_as_often_as_it_was_asked_for_and_in_order() {
        let faults = Faults::default();
        let take = |op: &str| faults.take("yonne", op.to_owned());
        faults.add("yonne", "POST /a".to_owned(), Fault::DropBefore, 2).unwrap();
        faults.add("yonne", "POST /a".to_owned(), Fault::Stall, 1).unwrap();
        assert_eq!(take("POST /b"), None);
        let met: Vec<_> = (0..4).map(|_| take("POST /a")).collect();
        assert_eq!(met, [Some(Fault::DropBefore), Some(Fault::DropBefore), Some(Fault::Stall), None]);
    }
}
