//! Outcomes that nobody knows, and all that may be seen of one record.

use std::time::Duration;

use http::StatusCode;
use maud::{Markup, html};

use super::{
    Answer, Asked, Console,
    page::{Fields, Place, Tone, for_people, notice, time},
    query, words,
};
use crate::serve::operators::{
    Refusal, Shown, Which,
    recent::{Acted, Seen},
    row::{Filter, RecordName, Row, Seconds, Standing},
};

/// Records on a page.
const PAGE_RECORDS: u32 = 50;

/// What an operator says of an unknown outcome.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Outcome {
    /// The effect happened.
    Happened,
    /// It did not.
    DidNotHappen,
}

impl Outcome {
    /// The last part of the path of its form.
    pub(super) fn as_path(self) -> &'static str {
        match self {
            Outcome::Happened => "happened",
            Outcome::DidNotHappen => "did-not-happen",
        }
    }
}

/// The record that a path is about, and the outcome if it is that of a form.
pub(super) fn place(path: &str) -> Option<(RecordName, Option<Outcome>)> {
    let rest = path.strip_prefix("/console/records/")?;
    let (record, outcome) = match rest.split_once('/') {
        None => (rest, None),
        Some((record, last)) => {
            let known = [Outcome::Happened, Outcome::DidNotHappen].into_iter().find(|one| one.as_path() == last)?;
            (record, Some(known))
        }
    };
    Some((record.parse().ok()?, outcome))
}

/// The page of a record.
pub(super) fn path_of(record: RecordName) -> String {
    format!("/console/records/{record}")
}

impl Console {
    pub(super) async fn unknown(&self, asked: Asked<'_>) -> Answer {
        let fields = query(asked.head);
        let content = match self.unknown_list(&fields).await {
            Ok(content) => content,
            Err(refusal) => return self.refused(asked, Place::Unknown, &refusal),
        };
        self.page(asked, StatusCode::OK, Place::Unknown, "Unknown outcomes", &content)
    }

    pub(super) async fn unknown_list(&self, fields: &Fields) -> Result<Markup, Refusal> {
        let said = |name: &str| Some(fields.text(name)).filter(|text| !text.is_empty());
        let age = said("older_than").map(humantime::parse_duration).transpose();
        let age = age.map_err(|_| Refusal::wrong("older than: write a duration such as 30s, 1h or 2d"))?;
        let filter = Filter {
            phase: Some(Standing::Unknown),
            route: said("route").map(str::to_owned),
            principal: said("principal").map(str::to_ascii_lowercase),
            older_than: age,
            younger_than: None,
        };
        let after = said("after").map(str::parse).transpose().map_err(Refusal::wrong)?;
        let page = self.operators.list(&filter, after, PAGE_RECORDS).await?;
        let next = page.next.map(|next| {
            let mut encoded = form_urlencoded::Serializer::new(String::new());
            for name in ["route", "principal", "older_than"] {
                encoded.append_pair(name, fields.text(name));
            }
            format!("/console/unknown?{}", encoded.append_pair("after", &next.to_string()).finish())
        });
        Ok(html! {
            h1 { "Unknown outcomes" }
            p {
                "These requests were sent, and nobody knows whether their effect happened. Look at the origin what became \
                 of each, and say it here: until then a retry is answered as its route says."
            }
            form class="line" action="/console/unknown" method="get" {
                label { "Route" input name="route" value=(fields.text("route")) list="routes" spellcheck="false"; }
                datalist id="routes" {
                    @for route in self.operators.semel().policy().routes() { option value=(route.name()) {} }
                }
                label { "Principal label" input name="principal" value=(fields.text("principal")) spellcheck="false"; }
                label { "Older than" input name="older_than" value=(fields.text("older_than")) placeholder="1h" size="6"; }
                button class="plain" { "Show" }
            }
            @if page.records.is_empty() {
                p { @if next.is_some() { "None among those that were looked at." } @else { "None." } }
            } @else {
                (unknown_table(&page.records))
            }
            @if let Some(next) = next { p { a href=(next) rel="next" { "Further ones" } } }
        })
    }

    /// A page that says why not.
    pub(super) fn refused(&self, asked: Asked<'_>, place: Place, refusal: &Refusal) -> Answer {
        let content = html! {
            h1 { (refusal.status.canonical_reason().unwrap_or("Sorry")) }
            (notice(Tone::Wrong, &html! { p { (refusal.detail) } }))
        };
        self.page(asked, refusal.status, place, "Sorry", &content)
    }

    pub(super) async fn record(&self, asked: Asked<'_>, record: RecordName) -> Answer {
        match self.operators.show(&Which::Record(record.0)).await {
            Ok(shown) => self.page(asked, StatusCode::OK, Place::Elsewhere, "Record", &self.record_page(&shown)),
            Err(refusal) if refusal.status == StatusCode::NOT_FOUND => self.gone(asked, record, &refusal),
            Err(refusal) => self.refused(asked, Place::Elsewhere, &refusal),
        }
    }

    pub(super) fn record_page(&self, shown: &Shown) -> Markup {
        let row = &shown.row;
        html! {
            h1 { "Record " code { (short(&row.record.to_string())) } }
            p { (phase(row.phase)) " " (shown.meaning) }
            @if row.phase == Standing::Unknown { (settle_links(row)) }
            h2 { "What is known" }
            (facts(row))
            @if let Some(left) = shown.lease_left {
                p { "Its execution has ended in " (for_people(left.0)) " at the latest." }
            }
            (timeline(&shown.seen, &self.operators.recent().acts_on(row.record.0)))
        }
    }

    /// What is left of a record that is not there: what this gateway saw of it.
    fn gone(&self, asked: Asked<'_>, record: RecordName, refusal: &Refusal) -> Answer {
        let seen = self.operators.recent().of_record(record.0, TIMELINE_EVENTS_MAX);
        let content = html! {
            h1 { "Record " code { (short(&record.to_string())) } }
            (notice(Tone::Plain, &html! { p { (refusal.detail) } p { "A retry with its key executes as a first time." } }))
            (timeline(&seen, &self.operators.recent().acts_on(record.0)))
        };
        self.page(asked, StatusCode::NOT_FOUND, Place::Elsewhere, "Record", &content)
    }
}

/// How many events the timeline of a record that is gone shows.
const TIMELINE_EVENTS_MAX: usize = 100;

/// The first digits of something long; the whole of it is a link away.
fn short(text: &str) -> String {
    format!("{}…", &text[..text.len().min(12)])
}

pub(super) fn unknown_table(rows: &[Row]) -> Markup {
    html! {
        div class="wide" {
            table class="cards" {
                caption { "Outcomes that nobody knows" }
                thead {
                    tr {
                        th scope="col" { "Route" }
                        th scope="col" { "Since" }
                        th scope="col" { "Whose" }
                        th scope="col" class="number" { "Attempt" }
                        th scope="col" { "Exchange" }
                        th scope="col" { "What became of it?" }
                    }
                }
                tbody {
                    @for row in rows {
                        tr {
                            th scope="row" data-label="Route" { (route_of(row)) }
                            td data-label="Since" { (for_people(row.age.0)) }
                            td data-label="Whose" { @match &row.principal { Some(label) => code { (label) }, None => "not said" } }
                            td class="number" data-label="Attempt" { (row.attempt) }
                            td data-label="Exchange" { a data-row href=(path_of(row.record)) { (in_halves(&row.exchange.to_string())) } }
                            td { (settle_links(row)) }
                        }
                    }
                }
            }
        }
    }
}

/// An exchange id that may go on two lines: who made it, and which of theirs it is.
fn in_halves(exchange: &str) -> Markup {
    let (maker, number) = exchange.split_at(exchange.len() / 2);
    html! { code { (maker) wbr; (number) } }
}

fn route_of(row: &Row) -> &str {
    row.route.as_deref().unwrap_or("not said")
}

/// The ways to say how it ended.
fn settle_links(row: &Row) -> Markup {
    let path = path_of(row.record);
    let whose = format!("exchange {}", row.exchange);
    html! {
        div class="actions" {
            a class="button plain" href={ (path) "/" (Outcome::Happened.as_path()) } {
                "It happened" span class="hidden" { ": " (whose) }
            }
            a class="button plain" href={ (path) "/" (Outcome::DidNotHappen.as_path()) } {
                "It did not happen" span class="hidden" { ": " (whose) }
            }
        }
    }
}

/// Where a record stands, in a word and a colour.
fn phase(phase: Standing) -> Markup {
    let words = match phase {
        Standing::InFlight => "in flight",
        Standing::Unknown => "unknown",
        Standing::Completed => "completed",
        Standing::Guard => "guard",
    };
    html! { span class={ "phase " (phase) } { (words) } }
}

/// What operators may see of a record.
pub(super) fn facts(row: &Row) -> Markup {
    let said = |text: &Option<String>| text.clone().unwrap_or_else(|| "not said".to_owned());
    html! {
        dl class="facts" {
            dt { "Route" } dd { code { (route_of(row)) } }
            dt { "Principal label" } dd { code { (said(&row.principal)) } }
            dt { "Last written" } dd { (for_people(row.age.0)) " ago, by exchange " code { (row.exchange) } }
            dt { "Forgotten" } dd { "in " (for_people(row.left.0)) }
            dt { "Attempt" } dd { (row.attempt) }
            @if let Some(status) = row.status {
                dt { "Status of the first response" } dd { (status) @if row.reply_kept { ", and the reply is kept" } }
            }
            @if row.guarded { dt { "Guard" } dd { "it is to hold one" } }
            @if let Some(trace) = &row.trace { dt { "Trace of the first request" } dd { code { (trace) } } }
            dt { "Record" } dd { code { (row.record) } }
        }
    }
}

/// What this gateway saw of a record.
fn timeline(seen: &[Seen], acts: &[Acted]) -> Markup {
    let events = seen.iter().map(|seen| (seen.at, event(seen)));
    let mut all: Vec<_> = events.chain(acts.iter().map(|acted| (acted.at, act(acted)))).collect();
    all.sort_by_key(|(at, _)| *at);
    html! {
        h2 { "What happened" }
        p class="quiet" { "As this gateway has seen it since it started. Other gateways of the same store have seen more." }
        @if all.is_empty() {
            p { "Nothing." }
        } @else {
            ol class="timeline" { @for (_, one) in &all { (one) } }
        }
    }
}

/// One request, with the steps that it took. Their times are counted back from that of its answer.
fn event(seen: &Seen) -> Markup {
    let back = |durations: &[Seconds]| durations.iter().map(|one| one.0).sum::<Duration>();
    let at = |back: Duration| time(seen.at.checked_sub(back).unwrap_or(seen.at));
    let meaning = words::of_decision(seen.decision);
    html! {
        li {
            @if seen.attempt > 0 {
                strong { "Attempt " (seen.attempt) }
                ol {
                    li { (at(back(&[seen.claim, seen.execute, seen.settle]))) "Claim asked for" }
                    li { (at(back(&[seen.execute, seen.settle]))) "Claimed, and sent to the origin" }
                    li {
                        (at(back(&[seen.settle])))
                        @if seen.decision == "lost" { "No answer" } @else { "The origin answered " (seen.status) }
                    }
                    li { (at(Duration::ZERO)) "Settled, as " code { (seen.decision) } ": " (meaning) }
                }
            } @else {
                (time(seen.at))
                strong { code { (seen.decision) } } ", answered with " (seen.status) ": " (meaning)
                @if !meaning.is_empty() { "." } " Nothing was executed."
            }
            div class="quiet" { "Exchange " code { (seen.exchange) } }
        }
    }
}

/// What an operator did.
fn act(acted: &Acted) -> Markup {
    let said = if acted.after == "gone" { "did not happen: the key is free" } else { "happened" };
    html! {
        li { (time(acted.at)) strong { (acted.who) } " settled it: it " (said) "." }
    }
}
