//! How far a storm is: a bar on a terminal, a few plain lines anywhere else.

use std::{
    io::IsTerminal,
    sync::atomic::{AtomicU32, Ordering::Relaxed},
};

use indicatif::{ProgressBar, ProgressStyle};

/// The progress of one storm, on standard error.
#[derive(Debug)]
pub(crate) struct Progress {
    name: &'static str,
    intents: u32,
    finished: AtomicU32,
    attempts: AtomicU32,
    bar: Option<ProgressBar>,
}

impl Progress {
    /// Shows the beginning.
    pub(crate) fn start(name: &'static str, intents: u32) -> Progress {
        let bar = std::io::stderr().is_terminal().then(|| {
            let style = ProgressStyle::with_template("  {prefix:<15} [{bar:30}] {pos:>4}/{len} purchases, {msg}")
                .expect("the template is well-formed")
                .progress_chars("=> ");
            ProgressBar::new(intents.into()).with_style(style).with_prefix(name).with_message("0 requests")
        });
        Progress { name, intents, finished: AtomicU32::new(0), attempts: AtomicU32::new(0), bar }
    }

    /// A request leaves.
    pub(crate) fn attempt(&self) {
        let attempts = self.attempts.fetch_add(1, Relaxed) + 1;
        if let Some(bar) = &self.bar {
            bar.set_message(format!("{attempts} requests"));
        }
    }

    /// An intent has its outcome.
    pub(crate) fn finished(&self) {
        let finished = self.finished.fetch_add(1, Relaxed) + 1;
        match &self.bar {
            Some(bar) => bar.inc(1),
            None if finished * 4 / self.intents > (finished - 1) * 4 / self.intents => {
                let (name, intents, attempts) = (self.name, self.intents, self.attempts.load(Relaxed));
                eprintln!("  {name}: {finished} of {intents} purchases, {attempts} requests");
            }
            None => {}
        }
    }

    /// Something happened that the spectator should know.
    pub(crate) fn say(&self, text: &str) {
        match &self.bar {
            Some(bar) => bar.println(format!("  {text}")),
            None => eprintln!("  {}: {text}", self.name),
        }
    }

    /// Leaves the last state on the screen.
    pub(crate) fn end(&self) {
        if let Some(bar) = &self.bar {
            bar.abandon();
        }
    }
}
