//! The forms by which an operator says what became of an unknown outcome.

use bytes::Bytes;
use http::StatusCode;
use maud::{Markup, html};
use semel_core::record::Reply;

use super::{
    Answer, Asked, Console,
    page::{Fields, Place, Tone, form_token, notice, see},
    records::{Outcome, facts, path_of},
    search::{headers_of, request_of},
};
use crate::serve::operators::{
    By, Refusal, Settlement, Shown, WORDS_CHARS_MAX, Which,
    row::{RecordName, StampText, Standing},
};

/// The fields of a reply that is to be told.
const REPLY_FIELDS: [&str; 4] = ["reply_headers", "reply", "headers", "content"];

impl Console {
    pub(super) async fn settle_page(&self, asked: Asked<'_>, record: RecordName, outcome: Outcome) -> Answer {
        match self.operators.show(&Which::Record(record.0)).await {
            Ok(shown) if shown.row.phase == Standing::Unknown => {
                self.settle_form(asked, StatusCode::OK, &shown, outcome, &Fields::default(), None)
            }
            // There is nothing to settle; its page says what is so.
            Ok(_) => see(&path_of(record)),
            Err(refusal) => self.refused(asked, Place::Elsewhere, &refusal),
        }
    }

    pub(super) async fn settle(
        &self,
        asked: Asked<'_>,
        record: RecordName,
        outcome: Outcome,
        fields: &Fields,
    ) -> Answer {
        let refusal = match self.said(asked, record, outcome, fields).await {
            Ok(Said { which, settlement, stamp, by }) => {
                match self.operators.settle(&which, settlement, Some(stamp), &by).await {
                    Ok(settled) => {
                        let words = format!("Settled: it is {} now; {}.", settled.now, settled.retries);
                        self.sessions.leave_notice(&asked.head.headers, words);
                        return see(&path_of(record));
                    }
                    Err(refusal) => refusal,
                }
            }
            Err(refusal) => refusal,
        };
        // The form again, with what was written and the record as it is now.
        match self.operators.show(&Which::Record(record.0)).await {
            Ok(shown) if shown.row.phase == Standing::Unknown => {
                self.settle_form(asked, refusal.status, &shown, outcome, fields, Some(&refusal))
            }
            Ok(_) | Err(_) => self.refused(asked, Place::Elsewhere, &refusal),
        }
    }

    fn settle_form(
        &self,
        asked: Asked<'_>,
        status: StatusCode,
        shown: &Shown,
        outcome: Outcome,
        fields: &Fields,
        why: Option<&Refusal>,
    ) -> Answer {
        let row = &shown.row;
        let (title, sure, button) = match outcome {
            Outcome::Happened => (
                "It happened",
                "I have looked at the origin: the effect of this request happened.",
                "Settle as happened",
            ),
            Outcome::DidNotHappen => (
                "It did not happen",
                "I have looked at the origin: the effect did not happen, in none of the attempts, and will not.",
                "Settle as did not happen",
            ),
        };
        let who = Some(fields.text("who")).filter(|who| !who.is_empty()).unwrap_or(&asked.operator.who);
        let content = html! {
            h1 { (title) }
            @if let Some(refusal) = why {
                (notice(Tone::Wrong, &html! { p { (refusal.detail) } p { "Nothing was changed by this form." } }))
            }
            (facts(row))
            (notice(Tone::Warn, &consequences(row.attempt, outcome)))
            form class="tall" action={ (path_of(row.record)) "/" (outcome.as_path()) } method="post" {
                (form_token(&asked.operator.form))
                input type="hidden" name="stamp" value=(row.stamp);
                div class="field" {
                    label for="who" { "Who says so" }
                    input id="who" name="who" value=(who) maxlength=(WORDS_CHARS_MAX) required autocomplete="username";
                }
                div class="field" {
                    label for="why" { "Why" }
                    input id="why" name="why" value=(fields.text("why")) maxlength=(WORDS_CHARS_MAX) required autofocus aria-describedby="why-hint";
                    p class="hint" id="why-hint" { "What you looked at, such as \"order 4711 is in the ledger\". It is in the audit log for good." }
                }
                @match outcome {
                    Outcome::Happened => (self.reply_fields(fields, row.route.as_deref().unwrap_or_default())),
                    Outcome::DidNotHappen => {}
                }
                label { input type="checkbox" name="sure" value="yes" required; " " (sure) }
                div class="actions" {
                    button class=[(outcome == Outcome::DidNotHappen).then_some("bad")] { (button) }
                    a class="button plain" href=(path_of(row.record)) { "Leave it as it is" }
                }
            }
        };
        self.page(asked, status, Place::Unknown, title, &content)
    }

    fn reply_fields(&self, fields: &Fields, route: &str) -> Markup {
        let status = Some(fields.text("status")).filter(|status| !status.is_empty()).unwrap_or("200");
        html! {
            div class="field" {
                label for="status" { "Status that a retry is told" }
                input id="status" name="status" value=(status) inputmode="numeric" pattern="[2-5][0-9][0-9]" required;
            }
            details open[REPLY_FIELDS.iter().any(|name| !fields.text(name).is_empty())] {
                summary { "Keep the reply" }
                div class="tall" {
                    p class="hint" {
                        "Replies are sealed under the caller's key, which this gateway does not keep. Give the request too, \
                         and retries are told this reply; else they are told that it happened, and with which status."
                    }
                    div class="field" {
                        label for="reply_headers" { "Headers of the reply, one a line" }
                        textarea id="reply_headers" name="reply_headers" spellcheck="false" { (fields.whole("reply_headers")) }
                    }
                    div class="field" {
                        label for="reply" { "Content of the reply" }
                        textarea id="reply" name="reply" spellcheck="false" { (fields.whole("reply")) }
                    }
                    fieldset {
                        legend { "The request, as its caller sent it" }
                        (self.request_fields(fields, route, "Content, as it was sent"))
                    }
                }
            }
        }
    }
}

/// What follows from saying so.
fn consequences(attempt: u32, outcome: Outcome) -> Markup {
    let times = if attempt > 1 { format!("{attempt} times") } else { "once".to_owned() };
    match outcome {
        Outcome::Happened => html! {
            p { strong { "A retry will not be executed any more." } " It is told that it is done." }
            p { "If the effect did not happen after all, it never will under this key. This is not taken back." }
        },
        Outcome::DidNotHappen => html! {
            p { strong { "The next retry will be executed as a first time." } }
            p {
                "The request was sent " (times) ". If one of those had its effect after all, or still gets to have it, a \
                 retry has it a second time."
            }
        },
    }
}

/// What a form says, whole.
struct Said {
    which: Which,
    settlement: Settlement,
    stamp: StampText,
    by: By,
}

impl Console {
    async fn said(
        &self,
        asked: Asked<'_>,
        record: RecordName,
        outcome: Outcome,
        fields: &Fields,
    ) -> Result<Said, Refusal> {
        let stamp = fields.text("stamp").parse().map_err(Refusal::wrong)?;
        if fields.text("sure") != "yes" {
            return Err(Refusal::wrong("Say that you have looked at the origin: tick the last box."));
        }
        let (mut which, settlement) = match outcome {
            Outcome::Happened => (Which::Record(record.0), Settlement::Happened(reply(fields)?)),
            Outcome::DidNotHappen => (Which::Record(record.0), Settlement::DidNotHappen),
        };
        let has = |names: &[&str]| names.iter().any(|name| !fields.text(name).is_empty());
        let has_request = has(&["headers", "content"]);
        if has(&["reply_headers", "reply"]) && !has_request {
            return Err(Refusal::wrong(
                "To have retries told that reply, give the request, too; or leave the reply out.",
            ));
        }
        if outcome == Outcome::Happened && has_request {
            which = request_of(fields)?;
            if self.operators.show(&which).await?.row.record != record {
                return Err(Refusal::wrong("The request that you gave is of another record."));
            }
        }
        let [who, why] = ["who", "why"].map(|name| fields.text(name).to_owned());
        Ok(Said { which, settlement, stamp, by: By { who, why, from: asked.from } })
    }
}

fn reply(fields: &Fields) -> Result<Reply, Refusal> {
    let status = fields.text("status").parse().ok().filter(|status| (200..=599).contains(status));
    let status = status.ok_or_else(|| Refusal::wrong("Status: write one from 200 to 599."))?;
    let headers = headers_of(fields.whole("reply_headers"))?;
    let headers = headers.iter().map(|(name, value)| {
        (Bytes::copy_from_slice(name.as_str().as_bytes()), Bytes::copy_from_slice(value.as_bytes()))
    });
    Ok(Reply { status, headers: headers.collect(), content: Bytes::from(fields.whole("reply").to_owned()) })
}
