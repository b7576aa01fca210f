//! Releases: a response that passes shows that what a guard waits for is over, or that what filled a slot is dead (Q18), or
//! an operator says so (E11).

use std::{sync::Arc, time::Duration};

use http::Method;

use crate::{
    fingerprint::{Member, string_member},
    key::{Key, KeyRule, Pointer},
    policy::{PathTemplate, RoutePolicy},
    record::Phase,
    register::Found,
    scope::{Principal, RecordKey, Scope, Secret},
};

/// Where a release shows, with every setting resolved.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ReleaseRule {
    /// The methods of the requests whose responses show it.
    pub methods: Vec<Method>,
    /// Their paths; the variables name the owner.
    pub path: PathTemplate,
    /// Where in the response's content it shows.
    pub member: Pointer,
    /// What shows.
    pub shows: Shows,
    /// How much older than such a request the owner's record must be: for origins that take a while to show what they did.
    pub after: Duration,
}

/// What a response shows.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Shows {
    /// The guard is held while the member is one of these, and released by any other text.
    HeldWhile(Vec<String>),
    /// What filled the slot is dead when the member is one of these.
    DeadWhen(Vec<String>),
}

/// A request whose response may show a release.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Watch {
    route: Arc<RoutePolicy>,
    rule: usize,
    owner: RecordKey,
}

/// What is to be released of an owner.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// Nothing yet: the owner may still execute, or is younger than the request that shows that it is over.
    NotOver,
    /// Nothing: the owner holds no guard.
    NoGuard,
    /// To release this guard, if its register names the owner.
    Guard(RecordKey),
    /// To release the owner's own record, which is the slot.
    Slot,
}

impl Watch {
    /// What a request on `path` may show of `route` by its n-th rule; `None` when the path names no record of it.
    pub(crate) fn of(
        route: &Arc<RoutePolicy>,
        rule: usize,
        secret: &Secret,
        principal: Principal,
        path: &str,
    ) -> Option<Watch> {
        let bound = route.releases[rule].path.bind(path)?;
        let key = match &route.key {
            KeyRule::Member { grammar, .. } => {
                let (_, segment) = bound.iter().find(|(name, _)| *name == KEY_VARIABLE)?;
                Key::from_member(decoded(segment)?, *grammar, route.key_bytes_max).ok()?
            }
            KeyRule::Operation => Key::operation(),
            // A header's key is in no path; the policy does not allow it.
            KeyRule::Header { .. } => return None,
        };
        let path = route.scope_path_from(&bound)?;
        let scope = Scope { principal, method: route.methods.first()?.as_str(), path: &path };
        Some(Watch { route: Arc::clone(route), rule, owner: RecordKey::of(secret, &scope, &key) })
    }

    fn rule(&self) -> &ReleaseRule {
        &self.route.releases[self.rule]
    }

    /// The route whose guard or slot it is about.
    pub fn route(&self) -> &RoutePolicy {
        &self.route
    }

    /// The record that it is about.
    pub fn owner(&self) -> RecordKey {
        self.owner
    }

    /// Whether the content of a response shows a release.
    pub fn is_shown_by(&self, content: &[u8]) -> bool {
        match (string_member(content, &self.rule().member), &self.rule().shows) {
            (Member::Text(text), Shows::HeldWhile(list)) => !list.contains(&text),
            (Member::Text(text), Shows::DeadWhen(list)) => list.contains(&text),
            (Member::Absent | Member::Other, _) => false,
        }
    }

    /// What a shown release is good for. `since` is the time since the request that shows it began, measured when the owner
    /// had been found: what was written later is not what the origin looked at.
    pub fn judge(&self, owner: &Found, since: Duration) -> Verdict {
        self.judge_over_for(owner, since.saturating_add(self.rule().after).saturating_add(AGE_UNIT))
    }

    /// What to release on the word of an operator, whatever responses show and `after` says: nothing of an owner that may
    /// still execute (E11).
    pub fn judge_by_operator(&self, owner: &Found) -> Verdict {
        self.judge_over_for(owner, Duration::ZERO)
    }

    fn judge_over_for(&self, owner: &Found, needed: Duration) -> Verdict {
        let over_for = match &owner.record.phase {
            Phase::Completed { .. } | Phase::Unknown => Some(owner.age),
            // Its writer is dead, or gave up when the lease was over: so it is unknown since then, and what was asked for
            // earlier may not show what it still did.
            Phase::InFlight { .. } if owner.abandoned => Some(owner.age),
            Phase::InFlight { lease } => owner.age.checked_sub(lease.saturating_add(AGE_UNIT)),
            // A guard owns nothing.
            Phase::Held { .. } => None,
        };
        if over_for.is_none_or(|over_for| over_for < needed) {
            return Verdict::NotOver;
        }
        match &self.rule().shows {
            Shows::HeldWhile(_) => owner.record.guard.map_or(Verdict::NoGuard, Verdict::Guard),
            Shows::DeadWhen(_) => Verdict::Slot,
        }
    }

    /// Whether a guard is held by the record that this is about.
    pub fn holds(&self, guard: &Found) -> bool {
        matches!(guard.record.phase, Phase::Held { owner, .. } if owner == self.owner)
    }
}

/// Stores measure ages in whole milliseconds, and may measure one too much.
const AGE_UNIT: Duration = Duration::from_millis(1);

/// The variable of a release's path that is the owner's key.
pub(crate) const KEY_VARIABLE: &str = "key";

/// A path segment without percent-encoding (RFC 3986 section 2.1).
pub(crate) fn decoded(segment: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(segment.len());
    let mut rest = segment.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        match (first, after) {
            (b'%', [high, low, after @ ..]) => {
                let digit = |byte: u8| char::from(byte).to_digit(16);
                bytes.push(u8::try_from(digit(*high)? * 16 + digit(*low)?).ok()?);
                rest = after;
            }
            (b'%', _) => return None,
            (byte, after) => {
                bytes.push(*byte);
                rest = after;
            }
        }
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, Method};

    use super::*;
    use crate::{
        admit::Head,
        fingerprint::Fingerprint,
        policy::{Policy, Preset},
        record::{ExchangeId, Kept, Record, Stamp},
    };

    /// A record in flight is over when its lease is: until then it may still execute what no response has shown.
    #[test]
    fn an_owner_counts_from_when_it_was_over() {
        let policy = Policy::preset(Preset::Etherfuse);
        let headers = HeaderMap::new();
        let path = "/ramp/order/00000000-0000-4000-8000-000000000001";
        let head = Head { method: &Method::GET, path, query: None, headers: &headers, caller: None };
        let watches = policy.watches(&Secret::from_bytes([7; 32]), &head);
        let guard = RecordKey::from_bytes([9; RecordKey::LEN]);
        let seconds = Duration::from_secs;
        let lease = seconds(35);
        let completed = || Phase::Completed { kept: Kept::Omitted { status: 200 }, replay_for: seconds(60) };
        let guard_itself = || Phase::Held { owner: watches[0].owner(), resource: None };
        let over = Verdict::Guard(guard);
        let rows = [
            (completed(), seconds(11), false, over, over),
            (completed(), seconds(9), false, Verdict::NotOver, over),
            (Phase::Unknown, seconds(11), false, over, over),
            (Phase::Unknown, seconds(9), false, Verdict::NotOver, over),
            (Phase::InFlight { lease }, seconds(34), false, Verdict::NotOver, Verdict::NotOver),
            (Phase::InFlight { lease }, seconds(36), false, Verdict::NotOver, over),
            (Phase::InFlight { lease }, seconds(44), false, Verdict::NotOver, over),
            (Phase::InFlight { lease }, seconds(46), false, over, over),
            (Phase::InFlight { lease }, seconds(11), true, over, over),
            (Phase::InFlight { lease }, seconds(9), true, Verdict::NotOver, over),
            (guard_itself(), seconds(99), false, Verdict::NotOver, Verdict::NotOver),
        ];
        for (phase, age, abandoned, verdict, by_operator) in rows {
            let what = format!("{phase:?} at {age:?}");
            let fingerprint = Fingerprint::from_bytes([1; Fingerprint::LEN]);
            let record =
                Record { fingerprint, attempt: 1, phase, retention: seconds(1_000), guard: Some(guard), about: None };
            let stamp = Stamp { exchange: ExchangeId(1), write: 1 };
            let owner = Found { stamp, age, abandoned, record };
            // The request that shows it began ten seconds ago.
            assert_eq!(watches[0].judge(&owner, seconds(10)), verdict, "{what}");
            assert_eq!(watches[0].judge_by_operator(&owner), by_operator, "{what}");
            let bare = Found { record: Record { guard: None, ..owner.record.clone() }, ..owner };
            let nothing = if by_operator == over { Verdict::NoGuard } else { by_operator };
            assert_eq!(watches[0].judge_by_operator(&bare), nothing, "{what}");
        }
    }
}
