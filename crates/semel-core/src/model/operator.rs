//! An operator who settles what nobody knows, once, and tells the truth as the origin shows it.
//!
//! That nothing is executing any more, an operator takes from Semel: while a record may be running, settling it is
//! refused, however sure the operator is.

use super::{Ask, Asks, Change, Config, Party, Purpose, World, reply_of};
use crate::{
    record::{ExchangeId, Kept},
    settle::{Ended, settle},
};

#[allow(clippy::large_enum_variant, reason = "a model has few of them at once, and clones them all the time")]
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) enum Operator {
    Away,
    /// May look at any time.
    Here,
    /// Has looked; what they ask for arrives at any later moment, or never.
    Asked(Ask),
}

/// Writes under an identity of their own.
const OPERATOR: ExchangeId = ExchangeId(99);

impl World {
    pub(super) fn moves_of_operator(&self, config: &Config, go: &mut dyn FnMut(&'static str, u8, &Change<'_>)) {
        match &self.operator {
            Operator::Away => {}
            Operator::Here => {
                let Some(cell) = self.cell.as_ref().filter(|cell| cell.stamp.exchange != OPERATOR) else { return };
                let party = usize::try_from(cell.stamp.exchange.0 - 1).expect("few exchanges");
                // Past the lease nothing executes but what the origin itself still does, and that an operator can see. Nor
                // does a driver then still ask for its claim.
                let is_late = !cell.is_running()
                    && (self.is_executing(self.life)
                        || self.parties.iter().any(|party| {
                            matches!(&**party, Party::Asking { asks: Asks::Again, purpose: Purpose::Claim, .. })
                        }));
                let kept = Kept::Reply(reply_of(party));
                let (replay_for, remember_for) = (config.rules.replay_for, config.rules.remember_for);
                let happened = Ended::Happened { kept, replay_for, remember_for };
                let effects = self.effects[self.life];
                for (what, ended, is_true) in [
                    ("an operator finds that it happened", happened, effects > 0),
                    ("an operator finds that it did not happen", Ended::DidNotHappen, effects == 0 && !is_late),
                ] {
                    let settled = settle(&cell.found(), None, ended, OPERATOR);
                    if let (true, Ok(swap)) = (is_true, settled) {
                        go(what, 0, &|w| {
                            let swap = swap.clone();
                            w.operator = Operator::Asked(Ask { party, swap, purpose: Purpose::Operator });
                            Ok(())
                        });
                    }
                }
            }
            Operator::Asked(ask) => go("what the operator asked for arrives", 0, &|w| {
                w.operator = Operator::Away;
                w.apply(config, ask).map(drop)
            }),
        }
    }
}
