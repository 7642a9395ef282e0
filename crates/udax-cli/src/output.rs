//! What all commands print with: tables and JSON; and how a command ends.

use anyhow::Context;
use comfy_table::{CellAlignment, ContentArrangement, Table, TableComponent, presets};
use serde::Serialize;
use std::io::{ErrorKind, IsTerminal, Write};

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
        write!(f, "cannot work here: {}", self.0)
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
/// As [`print()`].
pub(crate) fn print_json<T: Serialize>(value: &T) -> anyhow::Result<()> {
    print(&format!("{}\n", serde_json::to_string_pretty(value)?))
}

/// An empty table with these column heads; `numbers` says which columns are aligned to the right.
pub(crate) fn table<const N: usize>(heads: [&str; N], numbers: &[usize]) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_header(heads);
    for line in [TableComponent::HeaderLines, TableComponent::MiddleHeaderIntersections] {
        table.set_style(line, '─');
    }
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
