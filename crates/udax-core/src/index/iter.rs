//! Walking the entries of a range in order.

use super::node::Which;
use super::tree::{Found, Index};
use crate::units::PageRange;

/// The entries of a range, each once, in order; made by [`Index::iter_range`].
#[derive(Clone, Debug)]
pub(crate) struct Iter<'a> {
    index: &'a Index,
    /// The pages still to be looked at, both ends included; `None` when there are no more.
    rest: Option<(u64, u64)>,
}

impl Index {
    /// The entries that have a page in `range`, in order. The first may begin before the range does.
    #[doc(alias = "xas_for_each")]
    pub(crate) fn iter_range(&self, range: PageRange) -> Iter<'_> {
        let rest = if range.is_empty() { None } else { Some((range.start.0, range.end.0 - 1)) };
        Iter { index: self, rest }
    }
}

impl Iterator for Iter<'_> {
    type Item = Found;

    fn next(&mut self) -> Option<Found> {
        let (next, last) = self.rest.take()?;
        let found = self.index.search(next, last, Which::Any)?;
        // On from behind the entry's own end, never from the page it was found by: else it would come again (pitfall 56).
        self.rest = found.last().checked_add(1).map(|next| (next, last));
        Some(found)
    }
}
