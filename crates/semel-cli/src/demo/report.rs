//! What the two storms did: what the clients heard held against what the origin's ledger says.

use std::{collections::BTreeMap, fmt::Write as _};

use comfy_table::{Attribute, Cell, CellAlignment, Color, LineStyle, Table, TableStyle};

use super::{
    origin::{Account, Ledger},
    storm::{Attempts, Outcome, Verdict},
};

/// Both storms, counted.
#[derive(Debug)]
pub(crate) struct Report {
    /// Straight to the origin.
    pub(crate) direct: Side,
    /// The same through Semel.
    pub(crate) semel: Side,
    /// How often the gateway was killed in the middle; of two, the first.
    pub(crate) kills: u32,
    /// What the other gateway answered while the first was dead, if there were two.
    pub(crate) answered_meanwhile: Option<u32>,
}

/// One storm, counted.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub(crate) struct Side {
    /// What the clients sent, by what it came back with.
    attempts: Attempts,
    /// Requests that reached the origin.
    arrived: u32,
    /// What the origin charged.
    charges: u32,
    /// By how often a customer was charged; these three sum to the intents.
    not_charged: u32,
    charged_once: u32,
    charged_more: u32,
    /// By what a customer was told; these four sum to the intents.
    told_charged: u32,
    told_unknown: Unknowns,
    gave_up: u32,
    refused: u32,
    /// Answers that named a charge the ledger does not have, and charges that nobody had asked for.
    wrong: u32,
}

/// Intents whose customer was told that the outcome is unknown, by what the ledger knows of them.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
struct Unknowns {
    charged: u32,
    not_charged: u32,
    charged_more: u32,
    /// Of all these: the origin charged and its reply was lost.
    reply_lost: u32,
    /// Of all these: the connection broke before the origin charged.
    dropped: u32,
}

impl Side {
    /// Counts. The outcomes are those of all intents, the ledger that of an origin that is done.
    pub(crate) fn new(outcomes: &[Outcome], ledger: &Ledger) -> Side {
        let mut side = Side::default();
        let mut unclaimed: BTreeMap<&str, &Account> =
            ledger.orders.iter().map(|(order, account)| (order.as_str(), account)).collect();
        let untouched = Account::default();
        for outcome in outcomes {
            side.count(outcome, unclaimed.remove(outcome.order.as_str()).unwrap_or(&untouched));
        }
        let unwanted: usize = unclaimed.values().map(|account| account.charges.len()).sum();
        side.charges += count(unwanted);
        side.wrong += count(unwanted);
        side
    }

    /// Charges beyond the first for the same intent.
    fn double_charges(&self) -> u32 {
        self.charges - self.charged_once - self.charged_more
    }

    fn intents(&self) -> u32 {
        self.told_charged + self.told_unknown.all() + self.gave_up + self.refused
    }

    fn count(&mut self, outcome: &Outcome, account: &Account) {
        let charges = count(account.charges.len());
        self.attempts = self.attempts.plus(outcome.attempts);
        self.arrived += account.requests;
        self.charges += charges;
        match charges {
            0 => self.not_charged += 1,
            1 => self.charged_once += 1,
            _ => self.charged_more += 1,
        }
        match outcome.verdict {
            Verdict::Charged => self.told_charged += 1,
            Verdict::Unknown => self.told_unknown.count(charges, account),
            Verdict::GaveUp => self.gave_up += 1,
            Verdict::Refused(_) => self.refused += 1,
        }
        let is_booked = |told: &&String| account.charges.iter().any(|charge| charge.id == **told);
        self.wrong += count(outcome.charges_told.iter().filter(|told| !is_booked(told)).count());
    }
}

impl Unknowns {
    fn all(self) -> u32 {
        self.charged + self.not_charged + self.charged_more
    }

    fn count(&mut self, charges: u32, account: &Account) {
        match charges {
            0 => self.not_charged += 1,
            1 => self.charged += 1,
            _ => self.charged_more += 1,
        }
        if account.replies_lost > 0 {
            self.reply_lost += 1;
        } else if account.dropped > 0 {
            self.dropped += 1;
        }
    }
}

impl Report {
    /// Whether Semel kept its word: nobody charged twice, and every answer true.
    pub(crate) fn is_kept(&self) -> bool {
        let semel = &self.semel;
        self.is_sound() && semel.double_charges() == 0 && semel.wrong == 0 && semel.refused == 0
    }

    /// Whether the demo itself did what it says: the same intents twice, and a naive origin that tells the truth.
    fn is_sound(&self) -> bool {
        let (direct, semel) = (&self.direct, &self.semel);
        direct.wrong == 0 && direct.refused == 0 && direct.intents() == semel.intents()
    }

    /// The table, for a terminal of 80 columns.
    pub(crate) fn table(&self) -> Table {
        let (direct, semel) = (&self.direct, &self.semel);
        let line = LineStyle::none().fill('─').junction('─');
        let mut table = Table::new();
        table.load_style(TableStyle::new().top_border(line).header_separator(line).bottom_border(line));
        let number = |text: String| Cell::new(text).set_alignment(CellAlignment::Right);
        let bold = |text: &str| Cell::new(text).add_attribute(Attribute::Bold);
        table.set_header([bold(""), bold("directly"), bold("through Semel")]);
        let mut rows = vec![Line::Section("The storm")];
        rows.push(Line::Both("Purchases wanted", direct.intents(), semel.intents()));
        match self.answered_meanwhile {
            None => rows.push(Line::Semel("Semel killed (SIGKILL) and restarted", self.kills)),
            Some(answered) => {
                rows.push(Line::Semel("Gateway A killed (SIGKILL) and restarted", self.kills));
                rows.push(Line::Semel("Answers of gateway B meanwhile", answered));
            }
        }
        rows.push(Line::Section("What the API's ledger says"));
        rows.push(Line::Both("Requests that arrived", direct.arrived, semel.arrived));
        rows.push(Line::Both("Charges", direct.charges, semel.charges));
        rows.push(Line::Bad("DOUBLE CHARGES", direct.double_charges(), semel.double_charges()));
        rows.push(Line::Both("Customers charged once", direct.charged_once, semel.charged_once));
        rows.push(Line::Both("Customers charged more than once", direct.charged_more, semel.charged_more));
        rows.push(Line::Both("Customers not charged", direct.not_charged, semel.not_charged));
        rows.push(Line::Section("What the customers were told"));
        rows.push(Line::Both("Charged", direct.told_charged, semel.told_charged));
        rows.push(Line::Semel("Outcome unknown, will not be charged again", semel.told_unknown.all()));
        rows.push(Line::Rare("Nothing: the client gave up", direct.gave_up, semel.gave_up));
        rows.push(Line::Rare("An unexpected refusal", direct.refused, semel.refused));
        rows.push(Line::Rare("Answers that contradict the ledger", direct.wrong, semel.wrong));
        rows.push(Line::Section("What the clients' requests came back with"));
        let (was, is) = (direct.attempts, semel.attempts);
        rows.push(Line::Both("Requests sent, retries included", was.sent(), is.sent()));
        rows.push(Line::Both("A charge", was.charged, is.charged));
        rows.push(Line::Semel("A replay of the first answer", is.replayed));
        rows.push(Line::Semel("Refused: in flight, retry later", is.in_flight));
        rows.push(Line::Semel("Refused: outcome unknown", is.unknown));
        rows.push(Line::Rare("Other answers", was.other, is.other));
        rows.push(Line::Both("Nothing: the client's time-out", was.timed_out, is.timed_out));
        rows.push(Line::Both("Nothing: the connection broke", was.broke, is.broke));
        rows.push(Line::Rare("Nothing: no connection", was.unreachable, is.unreachable));
        for row in rows {
            match row {
                Line::Section(name) => table.add_row([bold(name)]),
                Line::Rare(_, 0, 0) => continue,
                Line::Both(name, was, is) | Line::Rare(name, was, is) => {
                    table.add_row([Cell::new(format!("  {name}")), number(was.to_string()), number(is.to_string())])
                }
                Line::Semel(name, is) => {
                    table.add_row([Cell::new(format!("  {name}")), number("-".to_owned()), number(is.to_string())])
                }
                Line::Bad(name, was, is) => {
                    let coloured = |count: u32| {
                        let color = if count == 0 { Color::Green } else { Color::Red };
                        number(count.to_string()).fg(color).add_attribute(Attribute::Bold)
                    };
                    table.add_row([bold(&format!("  {name}")), coloured(was), coloured(is)])
                }
            };
        }
        table
    }

    /// Who stood in for whom, what "unknown" was about, and then in one sentence what all of it means.
    pub(crate) fn words(&self) -> String {
        let paragraphs = [self.stand_in(), self.unknowns(), Some(self.sentence())];
        paragraphs.into_iter().flatten().collect::<Vec<_>>().join("\n\n")
    }

    fn stand_in(&self) -> Option<String> {
        let answered = self.answered_meanwhile?;
        let times = if self.kills == 1 { "once".to_owned() } else { format!("{} times", self.kills) };
        Some(format!(
            "Gateway A was killed {times} and came back; while it was dead, gateway B answered {answered} requests. \
             Retries went from the one to the other, and what one had begun the other knew of."
        ))
    }

    fn unknowns(&self) -> Option<String> {
        let unknown = self.semel.told_unknown;
        if unknown.all() == 0 {
            return None;
        }
        let more = match unknown.charged_more {
            0 => "none twice".to_owned(),
            more => format!("{more} MORE THAN ONCE"),
        };
        let under_way = unknown.all() - unknown.reply_lost - unknown.dropped;
        let causes = [
            (unknown.reply_lost, "the API's answer was lost after it charged"),
            (unknown.dropped, "the connection broke before it charged"),
            (under_way, "Semel was killed meanwhile"),
        ];
        let causes: Vec<String> =
            causes.iter().filter(|(times, _)| *times > 0).map(|(times, what)| format!("{what} ({times})")).collect();
        Some(format!(
            "For {} Semel said: I do not know. The ledger knows: {} had been charged once, {} not at all, {more}. What had \
             happened: {}. From outside the API all of these look the same, so trying again could have charged twice; \
             somebody has to look.",
            purchases(unknown.all()),
            unknown.charged,
            unknown.not_charged,
            causes.join(", "),
        ))
    }

    fn sentence(&self) -> String {
        let (direct, semel) = (&self.direct, &self.semel);
        if !self.is_sound() {
            return "The storm straight to the API went wrong, so there is nothing to compare with. This is a bug of the demo; \
                    please report it with the seed."
                .to_owned();
        }
        if !self.is_kept() {
            return format!(
                "Semel did not keep its word: double charges {}, answers that contradict the ledger {}, unexpected refusals \
                 {}. This is a bug; please report it with the seed.",
                semel.double_charges(),
                semel.wrong,
                semel.refused
            );
        }
        let mut sentence = format!(
            "The same customers, the same failures: directly, {} of {} were charged more than once; through Semel nobody \
             was: {} were told that they are charged, and are",
            direct.charged_more,
            direct.intents(),
            semel.told_charged,
        );
        if semel.told_unknown.all() > 0 {
            let _ = write!(sentence, "; {} were told that nobody knows", semel.told_unknown.all());
        }
        if semel.gave_up > 0 {
            let _ = write!(sentence, "; {} got no answer", semel.gave_up);
        }
        sentence.push('.');
        sentence
    }
}

/// A line of the table.
enum Line {
    Section(&'static str),
    Both(&'static str, u32, u32),
    /// Shown when there is something to show.
    Rare(&'static str, u32, u32),
    /// A thing that only exists with Semel.
    Semel(&'static str, u32),
    /// What should be zero.
    Bad(&'static str, u32, u32),
}

fn purchases(count: u32) -> String {
    match count {
        1 => "1 purchase".to_owned(),
        count => format!("{count} purchases"),
    }
}

fn count(length: usize) -> u32 {
    u32::try_from(length).expect("far fewer than 2^32 things happen in a demo")
}

/// Breaks the lines of a text at spaces, so that none is wider than `columns` unless a word is.
pub(crate) fn wrapped(text: &str, columns: usize) -> String {
    let mut wrapped = String::with_capacity(text.len());
    let mut column = 0;
    for paragraph in text.split('\n') {
        for word in paragraph.split(' ') {
            let width = word.chars().count();
            if column > 0 && column + 1 + width > columns {
                wrapped.push('\n');
                column = 0;
            } else if column > 0 {
                wrapped.push(' ');
                column += 1;
            }
            wrapped.push_str(word);
            column += width;
        }
        wrapped.push('\n');
        column = 0;
    }
    wrapped
}

#[cfg(test)]
mod tests {
    #![allow(clippy::needless_raw_string_hashes, reason = "expect-test writes them")]

    use expect_test::{Expect, expect};
    use http::StatusCode;

    use super::*;
    use crate::demo::origin::Charge;

    /// An intent: what its customer was told, the charges its answers named, and those that the ledger has.
    type Case = (Verdict, &'static [&'static str], &'static [&'static str]);

    const ONCE: Case = (Verdict::Charged, &["a"], &["a"]);
    const TWICE: Case = (Verdict::Charged, &["b"], &["a", "b"]);
    const UNKNOWN_CHARGED: Case = (Verdict::Unknown, &[], &["a"]);
    const UNKNOWN_NOT_CHARGED: Case = (Verdict::Unknown, &[], &[]);

    fn side(cases: &[Case]) -> Side {
        let mut ledger = Ledger::default();
        let mut outcomes = Vec::new();
        for (number, (verdict, told, booked)) in cases.iter().enumerate() {
            let order = format!("order-{number}");
            let charge = |id: &&str| Charge { id: format!("{order}/{id}"), order: order.clone(), amount: 1 };
            let charges: Vec<Charge> = booked.iter().map(charge).collect();
            let account = Account { requests: count(charges.len()), charges, ..Account::default() };
            ledger.orders.insert(order.clone(), account);
            let charges_told = told.iter().map(|id| format!("{order}/{id}")).collect();
            outcomes.push(Outcome { order, verdict: *verdict, charges_told, attempts: Attempts::default() });
        }
        Side::new(&outcomes, &ledger)
    }

    fn check(direct: &[Case], semel: &[Case], expect: &Expect) {
        let report = Report { direct: side(direct), semel: side(semel), kills: 2, answered_meanwhile: None };
        let kept = if report.is_kept() { "kept" } else { "NOT KEPT" };
        let (was, is) = (report.direct.double_charges(), report.semel.double_charges());
        expect.assert_eq(&format!("{kept}, double charges {was} and {is}\n{}", wrapped(&report.words(), 80)));
    }

    #[test]
    fn semel_keeps_its_word() {
        check(
            &[TWICE, ONCE, ONCE, TWICE],
            &[ONCE, UNKNOWN_CHARGED, UNKNOWN_NOT_CHARGED, ONCE],
            &expect![[r#"
                kept, double charges 2 and 0
                For 2 purchases Semel said: I do not know. The ledger knows: 1 had been charged
                once, 1 not at all, none twice. What had happened: Semel was killed meanwhile
                (2). From outside the API all of these look the same, so trying again could have
                charged twice; somebody has to look.

                The same customers, the same failures: directly, 2 of 4 were charged more than
                once; through Semel nobody was: 2 were told that they are charged, and are; 2
                were told that nobody knows.
            "#]],
        );
    }

    #[test]
    fn nothing_was_unknown() {
        check(
            &[TWICE],
            &[ONCE],
            &expect![[r#"
                kept, double charges 1 and 0
                The same customers, the same failures: directly, 1 of 1 were charged more than
                once; through Semel nobody was: 1 were told that they are charged, and are.
            "#]],
        );
    }

    #[test]
    fn a_double_charge_behind_semel_is_a_bug() {
        check(
            &[TWICE, ONCE],
            &[ONCE, TWICE],
            &expect![[r#"
                NOT KEPT, double charges 1 and 1
                Semel did not keep its word: double charges 1, answers that contradict the
                ledger 0, unexpected refusals 0. This is a bug; please report it with the seed.
            "#]],
        );
    }

    #[test]
    fn a_double_charge_is_not_excused_by_unknown() {
        check(
            &[ONCE],
            &[(Verdict::Unknown, &[], &["a", "b"])],
            &expect![[r#"
                NOT KEPT, double charges 0 and 1
                For 1 purchase Semel said: I do not know. The ledger knows: 0 had been charged
                once, 0 not at all, 1 MORE THAN ONCE. What had happened: Semel was killed
                meanwhile (1). From outside the API all of these look the same, so trying again
                could have charged twice; somebody has to look.

                Semel did not keep its word: double charges 1, answers that contradict the
                ledger 0, unexpected refusals 0. This is a bug; please report it with the seed.
            "#]],
        );
    }

    #[test]
    fn a_charge_that_was_told_and_is_not_booked_is_a_bug() {
        check(
            &[ONCE],
            &[(Verdict::Charged, &["a"], &[])],
            &expect![[r#"
                NOT KEPT, double charges 0 and 0
                Semel did not keep its word: double charges 0, answers that contradict the
                ledger 1, unexpected refusals 0. This is a bug; please report it with the seed.
            "#]],
        );
        check(
            &[ONCE],
            &[(Verdict::Charged, &["a", "b"], &["a"])],
            &expect![[r#"
                NOT KEPT, double charges 0 and 0
                Semel did not keep its word: double charges 0, answers that contradict the
                ledger 1, unexpected refusals 0. This is a bug; please report it with the seed.
            "#]],
        );
    }

    #[test]
    fn an_unexpected_refusal_is_a_bug() {
        check(
            &[ONCE],
            &[(Verdict::Refused(StatusCode::UNPROCESSABLE_ENTITY), &[], &[])],
            &expect![[r#"
                NOT KEPT, double charges 0 and 0
                Semel did not keep its word: double charges 0, answers that contradict the
                ledger 0, unexpected refusals 1. This is a bug; please report it with the seed.
            "#]],
        );
    }

    #[test]
    fn without_a_sound_comparison_nothing_is_claimed() {
        check(
            &[(Verdict::Charged, &["a"], &[])],
            &[ONCE],
            &expect![[r#"
            NOT KEPT, double charges 0 and 0
            The storm straight to the API went wrong, so there is nothing to compare with.
            This is a bug of the demo; please report it with the seed.
        "#]],
        );
        check(
            &[TWICE, TWICE],
            &[ONCE],
            &expect![[r#"
            NOT KEPT, double charges 2 and 0
            The storm straight to the API went wrong, so there is nothing to compare with.
            This is a bug of the demo; please report it with the seed.
        "#]],
        );
    }

    #[test]
    fn a_charge_that_nobody_asked_for_is_a_bug() {
        let charge = Charge { id: "x".to_owned(), order: "x".to_owned(), amount: 1 };
        let account = Account { requests: 1, charges: vec![charge], ..Account::default() };
        let stray = Side::new(&[], &Ledger { running: 0, orders: [("x".to_owned(), account)].into() });
        let report = Report { direct: Side::default(), semel: stray, kills: 0, answered_meanwhile: None };
        assert!(!report.is_kept());
    }

    #[test]
    fn the_table_fits_a_terminal_and_every_section_sums() {
        let mut semel = side(&[ONCE, UNKNOWN_CHARGED, UNKNOWN_NOT_CHARGED]);
        semel.attempts = Attempts { charged: 1, replayed: 1, in_flight: 3, unknown: 2, timed_out: 4, ..semel.attempts };
        let report = Report { direct: side(&[TWICE, ONCE, TWICE]), semel, kills: 2, answered_meanwhile: None };
        let table = report.table().trim_fmt();
        assert!(table.lines().all(|line| line.chars().count() <= 80), "{table}");
        expect![[r#"
            ─────────────────────────────────────────────────────────────────────────
                                                            directly   through Semel
            ─────────────────────────────────────────────────────────────────────────
             The storm
               Purchases wanted                                    3               3
               Semel killed (SIGKILL) and restarted                -               2
             What the API's ledger says
               Requests that arrived                               5               2
               Charges                                             5               2
               DOUBLE CHARGES                                      2               0
               Customers charged once                              1               2
               Customers charged more than once                    2               0
               Customers not charged                               0               1
             What the customers were told
               Charged                                             3               1
               Outcome unknown, will not be charged again          -               2
             What the clients' requests came back with
               Requests sent, retries included                     0              11
               A charge                                            0               1
               A replay of the first answer                        -               1
               Refused: in flight, retry later                     -               3
               Refused: outcome unknown                            -               2
               Nothing: the client's time-out                      0               4
               Nothing: the connection broke                       0               0
            ─────────────────────────────────────────────────────────────────────────"#]]
        .assert_eq(&table);
    }

    #[test]
    fn wraps_at_spaces() {
        assert_eq!(wrapped("to be or not to be\n\nthat is", 9), "to be or\nnot to be\n\nthat is\n");
    }
}
