//! What operators do to records: find the one of a request, and settle what nobody knows.

use std::{sync::Arc, time::Duration};

use semel_core::{
    admit::{Admission, Covered, Head, admit},
    exchange::Which,
    policy::{ReplyRule, RoutePolicy},
    record::{Kept, Reply, Stamp},
    register::{Found, Swap},
    settle::{Ended, Unsettled, settle},
    wire::Problem,
};

use crate::{drive::new_exchange_id, layer::Semel, reply, seal::Seals};

/// Why a request has no record.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Unfound {
    /// It passes through: no route covers it, or it has no key and needs none.
    NotCovered,
    /// It would be refused.
    Refused(Problem),
}

/// How an operator found that an operation ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Settlement {
    /// Its effect happened, and this is what the origin said, or would have said.
    Happened(Reply),
    /// Its effect did not happen, in none of its attempts: a retry executes as a first time.
    DidNotHappen,
}

impl Semel {
    /// What a request is about, as its caller would send it; the name of its record is in it. The clock plays no part:
    /// what is too old to be sent can still be looked at.
    pub fn find(&self, head: &Head<'_>, content: &[u8]) -> Result<Covered, Unfound> {
        let (policy, secret) = (self.policy(), self.secret());
        match admit(policy, head, Duration::ZERO) {
            Admission::Pass(_) => Err(Unfound::NotCovered),
            Admission::Refuse(refused) => Err(Unfound::Refused(refused.problem)),
            Admission::Read(admitted) => match admitted.cover(policy, secret, head, content) {
                Ok(Some(covered)) => Ok(covered),
                Ok(None) => Err(Unfound::NotCovered),
                Err(refused) => Err(Unfound::Refused(refused.problem)),
            },
        }
    }

    /// The swap that settles `found` on the word of an operator, to be asked of the [store](Semel::store): once, since
    /// after an error it may have been done, and what is there then tells.
    ///
    /// `seen` is the stamp that the operator was shown. A given reply is kept only with the request, whose key seals it,
    /// and where the route keeps replies; otherwise a retry is told that it happened, and with which status.
    pub fn settling(
        &self,
        found: &Found,
        request: Option<&Covered>,
        seen: Option<Stamp>,
        settlement: Settlement,
    ) -> Result<Swap, Unsettled> {
        let about = found.record.about.as_ref();
        let named =
            || self.policy().routes().iter().find(|route| about.is_some_and(|about| about.route == route.name()));
        let route = request.map(|request| &request.route).or_else(named);
        let ended = match settlement {
            Settlement::DidNotHappen => Ended::DidNotHappen,
            Settlement::Happened(reply) => {
                let kept = match request.filter(|request| request.route.reply == ReplyRule::Kept) {
                    Some(request) => Kept::Reply(Arc::new(reply::given(&request.route, reply))),
                    None => Kept::Omitted { status: reply.status },
                };
                // Of a route that is no more, what is known is how long its outcome would have stayed unknown.
                let times = |route: &Arc<RoutePolicy>| (route.replay_for, route.remember_for);
                let retention = found.record.retention;
                let (replay_for, remember_for) = route.map_or((retention, retention), times);
                Ended::Happened { kept, replay_for, remember_for }
            }
        };
        let mut swap = settle(found, seen, ended, new_exchange_id())?;
        if let Some(request) = request {
            swap = Seals::of(request).close(Which::Record, swap);
        }
        // What it is about, and of which trace, its first request has said.
        if let Some(put) = &mut swap.put {
            put.record.about.clone_from(&found.record.about);
        }
        Ok(swap)
    }
}
