//! Asks somebody, before a kept reply is told, whether the caller's credentials are still good.
//!
//! A replay never reaches the origin, which would have refused a revoked credential (`peers.md` #47).

use std::{net::SocketAddr, time::Duration};

use async_trait::async_trait;
use http::{HeaderName, Request, Response, StatusCode, request::Parts};
use semel::{Authorize, Body, Semel};
use semel_core::wire::{Problem, ProblemType};
use tokio_util::task::TaskTracker;
use tower::ServiceExt as _;

use super::{
    forward::{Forwarder, Forwarding},
    headers::Peer,
    pool::Pool,
    reload::{CurrentTerms, Terms},
    tls::{Outgoing, Transport},
};
use crate::config::{Gateway, HostRule, Question, Scheme};

/// Asks an address with the caller's own credentials.
#[derive(Debug)]
pub(crate) struct AskAddress {
    path: String,
    credentials: Vec<HeaderName>,
    forwarder: Forwarder,
    semel: Semel,
    answer_max: Duration,
}

impl AskAddress {
    /// Asks `question` in the limits of the gateway. `semel` lends its policy: the principal's headers and the problems.
    pub(crate) fn new(question: Question, gateway: &Gateway, outgoing: &Outgoing, semel: &Semel) -> AskAddress {
        let limit = gateway.upstream_connections_max;
        let transport = Transport::to(&question.origin, None, outgoing);
        let pool = Pool::new(question.origin, transport, limit, gateway.upstream_idle_max, gateway.connect_max);
        let own = Gateway { host: HostRule::Upstream, ..gateway.clone() };
        let forwarding = Forwarding::new(pool, CurrentTerms::new(Terms::new(semel.clone(), own)), TaskTracker::new());
        AskAddress {
            path: question.path,
            credentials: semel.policy().principal().to_vec(),
            forwarder: forwarding.of(Peer::new(SocketAddr::from(([127, 0, 0, 1], 0)), Scheme::Http)),
            semel: semel.clone(),
            answer_max: gateway.response_header_max,
        }
    }

    fn not_known(&self) -> Response<Body> {
        let detail = "Whether these credentials are still good could not be asked, so the kept reply is not told. Repeat this request with the same key later.";
        let problem = Problem { retry_after: Some(1), ..Problem::new(ProblemType::StoreUnavailable).detail(detail) };
        semel::problem(self.semel.policy(), None, &problem)
    }
}

#[async_trait]
impl Authorize for AskAddress {
    async fn authorize(&self, head: &Parts) -> Result<(), Response<Body>> {
        let mut question =
            Request::get(self.path.as_str()).body(Body::empty()).expect("the configuration checks the path");
        for name in &self.credentials {
            for value in head.headers.get_all(name) {
                question.headers_mut().append(name, value.clone());
            }
        }
        let asked = tokio::time::timeout(self.answer_max, self.forwarder.clone().oneshot(question)).await;
        let Ok(Ok(answer)) = asked else { return Err(self.not_known()) };
        match answer.status() {
            status if status.is_success() => Ok(()),
            // What it says is about the caller, and for the caller.
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Err(answer),
            _ => Err(self.not_known()),
        }
    }
}
