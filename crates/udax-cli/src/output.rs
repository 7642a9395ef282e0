//! What all commands print with: tables, JSON, a notice of progress; and how a command ends.

use anyhow::Context;
use comfy_table::{CellAlignment, ContentArrangement, Table, presets};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;
use std::io::{ErrorKind, IsTerminal, Write};
use std::time::Duration;

/// How a command ended that could do its work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// All is well.
    Fine,
    /// A check failed.
    Failed,
    /// udax cannot work here.
    CannotWork,
}

impl Verdict {
    /// The exit code that says so.
    pub(crate) const fn code(self) -> u8 {
        match self {
            Self::Fine => 0,
            Self::Failed => 1,
            Self::CannotWork => 125,
        }
    }
}

/// Why udax itself cannot work here. As an error it ends the command with exit code 125.
#[derive(Debug)]
pub(crate) struct CannotWork(pub(crate) String);

impl std::fmt::Display for CannotWork {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "udax cannot work here: {}", self.0)
    }
}

impl std::error::Error for CannotWork {}

/// Writes to standard output. A reader that has gone is no error.
///
/// # Errors
/// Any other failure to write.
pub(crate) fn print(text: &str) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            Err(error).context("cannot write to standard output")
        }
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Writes `value` as JSON, for other programs.
///
/// # Errors
/// As [`print`].
pub(crate) fn print_json<T: Serialize>(value: &T) -> anyhow::Result<()> {
    print(&format!("{}\n", serde_json::to_string_pretty(value)?))
}

/// An empty table with these column heads; `numbers` says which columns are aligned to the right.
pub(crate) fn table<const N: usize>(heads: [&str; N], numbers: &[usize]) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::UTF8_HORIZONTAL_ONLY).set_header(heads);
    if std::io::stdout().is_terminal() {
        table.set_content_arrangement(ContentArrangement::Dynamic);
    }
    for &number in numbers {
        if let Some(column) = table.column_mut(number) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table
}

/// Tells on a terminal what is being done; silent elsewhere.
pub(crate) struct Progress(ProgressBar);

impl Progress {
    /// For `steps` steps.
    pub(crate) fn new(steps: u64) -> Self {
        let target = if std::io::stderr().is_terminal() {
            ProgressDrawTarget::stderr()
        } else {
            ProgressDrawTarget::hidden()
        };
        let bar = ProgressBar::with_draw_target(Some(steps), target);
        if let Ok(style) = ProgressStyle::with_template("{bar:20} {msg}") {
            bar.set_style(style);
        }
        Self(bar)
    }

    /// The next step begins. Nothing is drawn until the one after: what is measured meanwhile is not disturbed.
    pub(crate) fn step(&self, what: &'static str) {
        self.0.inc(1);
        self.0.set_message(what);
        self.0.tick();
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

/// A time for people to read.
pub(crate) fn human_time(time: Duration) -> String {
    let micros = time.as_micros();
    match micros {
        0..1000 => format!("{micros} us"),
        1000..10_000 => format!("{}.{:02} ms", micros / 1000, micros % 1000 / 10),
        10_000..10_000_000 => format!("{} ms", micros / 1000),
        _ => format!("{}.{} s", micros / 1_000_000, micros % 1_000_000 / 100_000),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_shown_in_their_unit() {
        for (micros, text) in
            [(999, "999 us"), (2_350, "2.35 ms"), (1_200_000, "1200 ms"), (12_340_000, "12.3 s")]
        {
            assert_eq!(human_time(Duration::from_micros(micros)), text);
        }
    }
}
