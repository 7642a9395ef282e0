//! How a mapping is mapped, 2 MiB by 2 MiB.

use udax_linux::RunState;

/// What shows a unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub enum UnitState {
    /// Nothing yet: it has not been touched.
    Untouched,
    /// The common zero page.
    Zero,
    /// The file's own pages, by the kernel's plain mapping.
    Plain,
    /// Some of these side by side.
    Mixed,
}

impl From<RunState> for UnitState {
    fn from(state: RunState) -> Self {
        match state {
            RunState::Trap => Self::Untouched,
            RunState::Zero => Self::Zero,
            RunState::Plain => Self::Plain,
        }
    }
}

/// One unit: the part of a 2 MiB of the file that the mapping has.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct UnitReport {
    /// Byte offset in the file.
    pub offset: u64,
    /// Bytes.
    pub length: u64,
    /// What shows it.
    pub state: UnitState,
    /// Why it has no 2 MiB translation, if it has none.
    pub why_not_2mib: Option<String>,
}

/// A mapping, unit by unit.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct MapReport {
    /// Why the whole mapping is plain, if it is.
    pub plain_because: Option<String>,
    /// Why zeros may be shown, if they may.
    pub proof: Option<&'static str>,
    /// The units, in order.
    pub units: Vec<UnitReport>,
}
