//! The page of figures, and what was to be reached.

use std::fmt::Write as _;

use crate::machine::Machine;

/// Everything measured, in the order it was.
pub(crate) struct Report {
    machine: Machine,
    targets: Vec<Target>,
    sections: Vec<Section>,
}

/// A figure to reach, and the one measured.
struct Target {
    what: String,
    bound: Bound,
    measured: f64,
    beside: String,
}

/// On which side of a figure is good.
#[derive(Clone, Copy)]
pub(crate) enum Bound {
    /// This or more.
    AtLeast(f64),
    /// This or less.
    AtMost(f64),
}

/// A table with what one must know to read it.
pub(crate) struct Section {
    /// Its heading.
    pub(crate) title: &'static str,
    /// What was done.
    pub(crate) intro: String,
    /// Names of the columns.
    pub(crate) columns: Vec<&'static str>,
    /// One cell per column.
    pub(crate) rows: Vec<Vec<String>>,
}

impl Report {
    /// Nothing measured yet.
    pub(crate) fn new(machine: Machine) -> Report {
        Report { machine, targets: Vec::new(), sections: Vec::new() }
    }

    /// A figure that was to be reached; `beside` says what it was divided by.
    pub(crate) fn target(&mut self, what: impl Into<String>, bound: Bound, measured: f64, beside: impl Into<String>) {
        self.targets.push(Target { what: what.into(), bound, measured, beside: beside.into() });
    }

    /// A table.
    pub(crate) fn section(&mut self, section: Section) {
        self.sections.push(section);
    }

    /// All of it as Markdown.
    pub(crate) fn page(&self) -> String {
        let mut page = String::from(
            "# Figures\n\nWritten by `cargo xtask bench`; every figure is the median of short runs, and a ratio of figures of the same minute.\n\n",
        );
        for (name, value) in &self.machine.shape {
            writeln!(page, "- {name}: {value}").expect("writing to a string cannot fail");
        }
        let rows = self.targets.iter().map(|target| {
            let (sign, bound, met) = match target.bound {
                Bound::AtLeast(bound) => ("≥", bound, target.measured >= bound),
                Bound::AtMost(bound) => ("≤", bound, target.measured <= bound),
            };
            let verdict = if met { "ok" } else { "**MISSED**" };
            vec![
                target.what.clone(),
                format!("{sign} {}", figure(bound)),
                figure(target.measured),
                verdict.to_owned(),
                target.beside.clone(),
            ]
        });
        table(&mut page, "Figures to reach", "", &["figure", "to reach", "measured", "", "from"], rows);
        for section in &self.sections {
            table(&mut page, section.title, &section.intro, &section.columns, section.rows.iter().cloned());
        }
        page
    }
}

/// Three digits that mean something.
pub(crate) fn figure(value: f64) -> String {
    match value.abs() {
        v if v >= 1_000_000.0 => format!("{:.2} M", value / 1_000_000.0),
        v if v >= 10_000.0 => format!("{:.1} k", value / 1_000.0),
        v if v >= 100.0 => format!("{value:.0}"),
        v if v >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

fn table(page: &mut String, title: &str, intro: &str, columns: &[&str], rows: impl Iterator<Item = Vec<String>>) {
    write!(page, "\n## {title}\n\n").expect("writing to a string cannot fail");
    if !intro.is_empty() {
        write!(page, "{intro}\n\n").expect("writing to a string cannot fail");
    }
    let mut line = |cells: &[&str]| {
        writeln!(page, "| {} |", cells.join(" | ")).expect("writing to a string cannot fail");
    };
    line(columns);
    line(&vec!["---"; columns.len()]);
    for row in rows {
        line(&row.iter().map(String::as_str).collect::<Vec<_>>());
    }
}
