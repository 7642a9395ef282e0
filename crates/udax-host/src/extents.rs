//! The layout of a file as it is, page by page: what `udax map` shows.

use crate::io::HostIo;
use udax_core::{IoError, PAGE_BYTES, PageIndex, PageRange};

/// What a run of pages holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExtentKind {
    /// Data in at least one byte's block of every page.
    Data,
    /// Nothing, or storage that was reserved and never written: reads as zeros.
    Hole,
}

/// A run of pages of one kind, as long as it goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// The pages.
    pub pages: PageRange,
    /// What they hold.
    pub kind: ExtentKind,
}

/// The extents of `range` of a file, up to its end, in order, by two or three look-ups each. A page with any data is data.
///
/// Others may change the file meanwhile: each extent was true when it was looked up. May wait for the inode lock (see
/// [`HostIo`]). After an error it ends.
pub fn extents(io: &dyn HostIo, range: PageRange) -> Extents<'_> {
    Extents { io, rest: Some(range), data_ahead: None }
}

/// The iterator behind [`extents`].
pub struct Extents<'a> {
    io: &'a dyn HostIo,
    rest: Option<PageRange>,
    /// Data known to begin at `rest.start`: it was found in looking for the end of a hole.
    data_ahead: Option<PageIndex>,
}

impl Extents<'_> {
    fn find(&mut self, rest: PageRange) -> Result<Option<Extent>, IoError> {
        let eof = pages_of(self.io.size_bytes()?);
        let rest = rest.intersect(PageRange::between(PageIndex(0), eof));
        if rest.is_empty() {
            return Ok(None);
        }
        if self.data_ahead.take() != Some(rest.start) {
            let data = self.io.seek_data(rest.start.byte())?.map_or(eof, PageIndex::of_byte);
            if data > rest.start {
                self.data_ahead = Some(data);
                let pages = rest.intersect(PageRange::between(rest.start, data));
                return Ok(Some(Extent { pages, kind: ExtentKind::Hole }));
            }
        }
        let end = self.end_of_data(rest, eof)?;
        let pages = rest.intersect(PageRange::between(rest.start, end));
        Ok(Some(Extent { pages, kind: ExtentKind::Data }))
    }

    /// The page after the data that begins in page `rest.start`.
    fn end_of_data(&self, rest: PageRange, eof: PageIndex) -> Result<PageIndex, IoError> {
        let mut from_byte = self.io.seek_data(rest.start.byte())?;
        let mut end = rest.start.plus(1);
        // Blocks may be smaller than a page: a hole that begins and ends in one page ends nothing.
        while let Some(data_byte) = from_byte {
            if PageIndex::of_byte(data_byte) > end {
                break;
            }
            end = self.io.seek_hole(data_byte)?.map_or(eof, pages_of).max(end);
            if end >= rest.end || end >= eof {
                break;
            }
            from_byte =
                self.io.seek_data(end.byte())?.filter(|&next| PageIndex::of_byte(next) == end);
        }
        Ok(end)
    }
}

impl Iterator for Extents<'_> {
    type Item = Result<Extent, IoError>;

    fn next(&mut self) -> Option<Self::Item> {
        let rest = self.rest.take()?;
        let found = self.find(rest).transpose()?;
        if let Ok(extent) = found {
            self.rest = Some(PageRange::between(extent.pages.end, rest.end));
        }
        Some(found)
    }
}

/// How many pages `bytes` take, as the index after the last.
pub(crate) const fn pages_of(bytes: u64) -> PageIndex {
    PageIndex(bytes.div_ceil(PAGE_BYTES))
}
