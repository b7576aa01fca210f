//! File descriptors: clients must never use up those that the store needs.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// For the store, the operators, DNS and whatever else a process opens.
const RESERVED: u64 = 256;

/// Raises the process's soft limit to its hard one, and says how many client connections fit: each may need a second
/// descriptor, for its connection to the origin.
///
/// A store that cannot open its next segment refuses everything, so clients wait in the kernel's queue instead.
pub(crate) fn make_room(connections_max: usize) -> usize {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    let allowed = match setrlimit(Resource::Nofile, raised) {
        Ok(()) => raised.current,
        Err(_) => limit.current,
    };
    let fitting = fitting(connections_max, allowed);
    if fitting < connections_max {
        tracing::warn!(
            target: "semel::serve",
            "connections_max is {connections_max}, but with the limit of {} open files (ulimit -n) at most {fitting} fit",
            allowed.unwrap_or_default()
        );
    }
    fitting
}

fn fitting(connections_max: usize, allowed: Option<u64>) -> usize {
    let Some(allowed) = allowed else { return connections_max };
    let fit = allowed.saturating_sub(RESERVED) / 2;
    connections_max.min(usize::try_from(fit).unwrap_or(usize::MAX)).max(1)
}

#[cfg(test)]
mod tests {
    use super::fitting;

    #[test]
    fn the_store_keeps_its_share() {
        assert_eq!(fitting(10_000, None), 10_000);
        assert_eq!(fitting(10_000, Some(1 << 20)), 10_000);
        assert_eq!(fitting(10_000, Some(1_024)), 384);
        assert_eq!(fitting(10_000, Some(64)), 1);
    }
}
