//! Routes, and what each of them promises.

use http::StatusCode;
use maud::html;

use super::{Answer, Asked, Console, page::Place, words};
use crate::config::words as configured;

impl Console {
    pub(super) fn routes(&self, asked: Asked<'_>) -> Answer {
        let semel = self.operators.semel();
        let policy = semel.policy();
        let principal: Vec<String> = policy.principal().iter().map(configured::header).collect();
        let content = html! {
            h1 { "Routes" }
            p {
                "The first route that fits a request covers it; what none covers passes through. "
                @if principal.is_empty() {
                    strong { "All callers share one key space" } ", since no header tells them apart."
                } @else {
                    "Callers are told apart by " (principal.join(", ")) "."
                }
            }
            @for (number, route) in policy.routes().iter().enumerate() {
                section class="route" aria-labelledby={ "route-" (number) } {
                    h2 id={ "route-" (number) } { code { (words::heading(route)) } }
                    ul { @for sentence in words::of_route(route) { li { (sentence) } } }
                }
            }
        };
        self.page(asked, StatusCode::OK, Place::Routes, "Routes", &content)
    }
}
