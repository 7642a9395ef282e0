//! The mapping entry: one 64-bit word that says what covers a page or a 2 MiB range of a file, and holds its lock.
//!
//! Layout, low bit first: LOCKED, PMD, ZERO, EMPTY, PRESENT (always one, so that no entry is the word 0), then the frame.
//! ZERO and EMPTY are never both set; the frame has a meaning in neither (SEMANTICS 1.1, 1.2; pitfall 64).

use crate::units::{Frame, Order};
use core::fmt;
use core::num::NonZeroU64;

const LOCKED: u64 = 1;
const PMD: u64 = 1 << 1;
const ZERO: u64 = 1 << 2;
const EMPTY: u64 = 1 << 3;
const PRESENT: u64 = 1 << 4;
const FRAME_SHIFT: u32 = 5;

/// Frames that an entry can name: 2^59 of them.
pub const FRAME_LIMIT: u64 = 1 << (64 - FRAME_SHIFT);

/// What stands behind an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Nothing yet: the entry exists to be locked.
    Empty,
    /// The common zero page of the entry's size is what mappings may show. Which one that is at an address is for the address space to
    /// know (pitfall 83):
    ///
    /// ```compile_fail
    /// let _ = udax_core::Kind::Zero(udax_core::Frame(0));
    /// ```
    Zero,
    /// Storage; the frame of the entry's first page.
    Mapped(Frame),
}

/// One mapping entry as a word, locked or not.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
#[doc(alias = "dax_make_entry")]
#[doc(alias = "radix_entry")]
pub struct Entry(NonZeroU64);

impl Entry {
    /// An unlocked entry.
    ///
    /// # Panics
    /// If the frame is [`FRAME_LIMIT`] or more, or a PMD entry's frame is no multiple of 512: both are bugs of the caller.
    #[must_use]
    pub const fn new(order: Order, kind: Kind) -> Self {
        let size = match order {
            Order::Pte => 0,
            Order::Pmd => PMD,
        };
        let payload = match kind {
            Kind::Empty => EMPTY,
            Kind::Zero => ZERO,
            Kind::Mapped(frame) => {
                assert!(frame.0 < FRAME_LIMIT, "the frame does not fit into an entry");
                assert!(
                    matches!(order, Order::Pte) || frame.is_pmd_aligned(),
                    "a 2 MiB entry needs a 2 MiB aligned frame"
                );
                frame.0 << FRAME_SHIFT
            }
        };
        Self(NonZeroU64::MIN).with(size | payload | PRESENT)
    }

    const fn with(self, word: u64) -> Self {
        match NonZeroU64::new(word) {
            Some(word) => Self(word),
            None => self,
        }
    }

    /// The entry behind a stored word; `None` for 0.
    #[must_use]
    pub const fn from_word(word: u64) -> Option<Self> {
        match NonZeroU64::new(word) {
            Some(word) => Some(Self(word)),
            None => None,
        }
    }

    /// The word to store.
    #[must_use]
    pub const fn word(self) -> u64 {
        self.0.get()
    }

    /// Whether somebody holds the entry lock.
    #[must_use]
    #[doc(alias = "dax_is_locked")]
    pub const fn is_locked(self) -> bool {
        self.word() & LOCKED != 0
    }

    /// The same entry with the lock bit set.
    #[must_use]
    pub const fn locked(self) -> Self {
        self.with(self.word() | LOCKED)
    }

    /// The same entry with the lock bit clear.
    #[must_use]
    pub const fn unlocked(self) -> Self {
        self.with(self.word() & !LOCKED)
    }

    /// How many pages the entry covers.
    #[must_use]
    #[doc(alias = "dax_entry_order")]
    pub const fn order(self) -> Order {
        if self.word() & PMD == 0 { Order::Pte } else { Order::Pmd }
    }

    /// What stands behind it.
    #[must_use]
    pub const fn kind(self) -> Kind {
        if self.word() & EMPTY != 0 {
            Kind::Empty
        } else if self.word() & ZERO != 0 {
            Kind::Zero
        } else {
            Kind::Mapped(Frame(self.word() >> FRAME_SHIFT))
        }
    }

    /// The storage frame of the first page, if there is storage.
    #[must_use]
    #[doc(alias = "dax_to_pfn")]
    pub const fn frame(self) -> Option<Frame> {
        match self.kind() {
            Kind::Mapped(frame) => Some(frame),
            Kind::Empty | Kind::Zero => None,
        }
    }

    /// Whether the zero page is what mappings may show.
    #[must_use]
    #[doc(alias = "dax_is_zero_entry")]
    pub const fn is_zero(self) -> bool {
        matches!(self.kind(), Kind::Zero)
    }

    /// Whether it is but a lock.
    #[must_use]
    #[doc(alias = "dax_is_empty_entry")]
    pub const fn is_empty(self) -> bool {
        matches!(self.kind(), Kind::Empty)
    }

    /// Whether there is storage behind it.
    #[must_use]
    pub const fn is_mapped(self) -> bool {
        matches!(self.kind(), Kind::Mapped(_))
    }
}

impl fmt::Debug for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lock = if self.is_locked() { " locked" } else { "" };
        write!(f, "{:?} {:?}{lock}", self.order(), self.kind())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_order_and_lock_survives_the_word() {
        for order in [Order::Pte, Order::Pmd] {
            for kind in [
                Kind::Empty,
                Kind::Zero,
                Kind::Mapped(Frame(0)),
                Kind::Mapped(Frame(FRAME_LIMIT - 512)),
            ] {
                let entry = Entry::new(order, kind);
                assert_eq!((entry.order(), entry.kind(), entry.is_locked()), (order, kind, false));
                let locked = entry.locked();
                assert_eq!(
                    (locked.order(), locked.kind(), locked.is_locked()),
                    (order, kind, true)
                );
                assert_eq!(locked.unlocked(), entry);
                assert_eq!(Entry::from_word(entry.word()), Some(entry));
            }
        }
        assert_eq!(Entry::from_word(0), None);
    }

    #[test]
    fn what_stands_behind_an_entry() {
        for (kind, [zero, empty, mapped]) in [
            (Kind::Zero, [true, false, false]),
            (Kind::Empty, [false, true, false]),
            (Kind::Mapped(Frame(512)), [false, false, true]),
        ] {
            let entry = Entry::new(Order::Pmd, kind);
            assert_eq!(
                [entry.is_zero(), entry.is_empty(), entry.is_mapped()],
                [zero, empty, mapped]
            );
            assert_eq!(entry.frame(), mapped.then_some(Frame(512)));
        }
        let entry = Entry::new(Order::Pte, Kind::Zero);
        assert_eq!(std::format!("{entry:?}, {:?}", entry.locked()), "Pte Zero, Pte Zero locked");
    }

    #[test]
    #[should_panic(expected = "does not fit")]
    fn a_frame_too_high_is_refused() {
        let _ = Entry::new(Order::Pte, Kind::Mapped(Frame(FRAME_LIMIT)));
    }

    #[test]
    #[should_panic(expected = "2 MiB aligned")]
    fn a_pmd_entry_refuses_an_unaligned_frame() {
        let _ = Entry::new(Order::Pmd, Kind::Mapped(Frame(1)));
    }
}
