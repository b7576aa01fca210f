//! How often what was decided, and what waits for an operator.

use std::time::{Duration, SystemTime};

use http::StatusCode;
use maud::{Markup, html};
use tokio::time::timeout;

use super::{
    Answer, Asked, Console,
    page::{Place, time},
    words,
};
use crate::serve::operators::row::{Filter, Standing};

/// The part of the page that a browser asks for again and again.
pub(super) const NOW_PATH: &str = "/console/now";
/// How often: htmx's words.
const EVERY: &str = "every 2s";
/// How long the store may take to prove that it works.
const PROBE_MAX: Duration = Duration::from_secs(2);
/// Records that are counted for one answer: browsers ask again and again.
pub(super) const COUNTED_MAX: u32 = 200;

impl Console {
    pub(super) async fn overview(&self, asked: Asked<'_>) -> Answer {
        let content = html! {
            h1 { "Overview" }
            div hx-get=(NOW_PATH) hx-trigger=(EVERY) { (self.now().await) }
            noscript { p { "This page is as it was when it was loaded. " a href="/console" { "Load it again" } } }
        };
        self.page(asked, StatusCode::OK, Place::Overview, "Overview", &content)
    }

    /// What changes while somebody looks.
    pub(super) async fn now(&self) -> Markup {
        let now = SystemTime::now();
        let recent = self.operators.recent();
        let (lately, ever) = (recent.decisions_lately(now), recent.decisions());
        let (unknown, running, store) =
            tokio::join!(self.count(Standing::Unknown), self.count(Standing::InFlight), self.store());
        html! {
            dl class="counts" {
                div { dt { a href="/console/unknown" { "Unknown outcomes" } } dd id="unknown-count" { (unknown) } }
                div { dt { "Running now" } dd { (running) } }
                div { dt { "Store" } dd { (store) } }
                div { dt { "Requests in the last minute" } dd { (lately.values().sum::<u64>()) } }
            }
            h2 id="decisions" { "Decisions" }
            @if ever.is_empty() {
                p { "No request on a covered route yet." }
            } @else {
                div class="wide" {
                    table aria-labelledby="decisions" {
                        thead {
                            tr {
                                th scope="col" { "Decision" }
                                th scope="col" { "What it means" }
                                th scope="col" class="number" { "Last minute" }
                                th scope="col" class="number" { "Since start" }
                            }
                        }
                        tbody {
                            @for (decision, count) in &ever {
                                tr {
                                    th scope="row" { code { (decision) } }
                                    td { (words::of_decision(decision)) }
                                    td class="number" { (lately.get(decision).unwrap_or(&0)) }
                                    td class="number" { (count) }
                                }
                            }
                        }
                    }
                }
            }
            p class="quiet" { "Of this gateway, since it started. As of " (time(now)) }
        }
    }

    async fn count(&self, phase: Standing) -> String {
        let filter = Filter { phase: Some(phase), ..Filter::default() };
        match self.operators.list(&filter, None, COUNTED_MAX).await {
            Ok(page) if page.next.is_some() => format!("{} or more", page.records.len()),
            Ok(page) => page.records.len().to_string(),
            Err(_) => "not known".to_owned(),
        }
    }

    async fn store(&self) -> &'static str {
        match timeout(PROBE_MAX, self.operators.semel().store().probe()).await {
            Ok(Ok(())) => "ready",
            Ok(Err(_)) => "does not work",
            Err(_) => "does not answer",
        }
    }
}
