//! Hints, as madvise(2) takes them.

/// What a program means to do with its mapping. Hints only: none changes what is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Advice {
    /// Nothing special (`MADV_NORMAL`).
    Normal,
    /// In no order (`MADV_RANDOM`).
    Random,
    /// Upwards (`MADV_SEQUENTIAL`).
    Sequential,
    /// Soon (`MADV_WILLNEED`).
    WillNeed,
    /// Make it present now, so that reading does not fault (`MADV_POPULATE_READ`). Of a hole that costs no memory.
    PopulateRead,
}

impl Advice {
    pub(crate) const fn bits(self) -> i32 {
        match self {
            Self::Normal => 0,
            Self::Random => 1,
            Self::Sequential => 2,
            Self::WillNeed => 3,
            Self::PopulateRead => 22,
        }
    }
}
