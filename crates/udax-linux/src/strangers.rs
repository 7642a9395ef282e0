//! What the program has put where we believe our own mapping to be, by system calls that nobody sees: it is not ours to replace, nor to look into.
//!
//! Traps and windows are registered with our userfaultfd, which nothing is that the program puts there, and the kernel says so at the price of
//! one request. Where faults come by signals they are known by their looks in /proc/self/maps alone. What is plain is known by the file that it maps.

use crate::area::{Sharing, VmaArea, bytes};
use crate::catcher::Catcher;
use crate::events::Access;
use crate::runs::{Run, RunState};
use crate::service::Service;
use crate::space::{LinuxSpace, State};
use crate::sys::errno::Errno;
use crate::sys::maps::{self, Found};
use crate::sys::{fd, mem, uffd};
use std::os::fd::RawFd;
use udax_core::{PAGE_SHIFT, PageRange};

/// The numbers of the files that traps and zeros are made of, where they could be had.
struct Makings {
    traps: Option<u64>,
    zeros: Option<u64>,
}

impl Makings {
    fn of(service: &Service) -> Self {
        let ino = |file: Option<RawFd>| {
            let status = file.map(fd::status);
            status.and_then(|status| status.ok()).map(|status| status.stx_ino)
        };
        Self { traps: ino(service.table.traps), zeros: ino(service.table.zeros) }
    }

    /// Whether a mapping looks as what is laid by [`crate::guarded`].
    fn are_of(&self, found: &Found, state: RunState, sharing: Sharing) -> bool {
        let (ino, may_be_stored_to) = match (state, sharing) {
            (RunState::Trap, _) => (self.traps, false),
            (RunState::Zero, Sharing::Shared) => (self.zeros, false),
            (RunState::Zero, Sharing::Private) => (self.zeros, true),
            (RunState::Plain, _) => return false,
        };
        let is_made_of_it = match ino {
            // Each lies at the offset of its own address.
            Some(ino) => found.ino == ino && found.offset_bytes == found.addresses.start as u64,
            None => found.ino == 0 && !found.is_shared,
        };
        is_made_of_it && (may_be_stored_to || !found.may_be_stored_to)
    }
}

/// The mappings that reach into a range, in order. On a service thread.
fn mappings_over(service: &Service, address: usize, length_bytes: usize) -> Vec<Found> {
    let (mut at, end) = (address, address + length_bytes);
    let mut all = Vec::new();
    while at < end {
        match maps::at_or_behind(service.table.maps, at) {
            Ok(found) if found.addresses.start < end => {
                at = found.addresses.end;
                all.push(found);
            }
            Ok(_) | Err(Errno::NOENT) => break,
            Err(_) => {
                all = read_maps();
                all.retain(|line| overlaps(line, address, length_bytes));
                break;
            }
        }
    }
    all
}

/// Whether the kernel allows `access` at `address` now. Where nothing lies it says so itself, to whoever comes there. On a service thread.
pub(crate) fn are_rights_there(service: &Service, address: usize, access: Access) -> bool {
    let page = address & !(mem::PAGE - 1);
    // Where stores are allowed, so are loads, by every processor's rule.
    mappings_over(service, page, mem::PAGE)
        .iter()
        .all(|found| found.may_be_stored_to || access == Access::Read && found.may_be_loaded_from)
}

impl LinuxSpace {
    /// Forgets the traps and windows of `range` that are not there any more, because the program has unmapped them by a system call of its own making; what lies there now
    /// is left alone from here on. To be called before something is done to the space that no fault in it has asked for; not on the fault thread.
    ///
    /// Costs one request for each trap and window that reaches into the range.
    pub fn forget_strangers(&self, range: PageRange) {
        let mut held = self.hold();
        let state = &mut *held.state;
        let range = range.intersect(state.area.pages);
        let is_to_be_asked = |run: Run| run.state != RunState::Plain;
        if state.runs.in_range(range).any(is_to_be_asked) {
            let service = self.service();
            service.with_descriptors(|| forget_strangers_in(service, state, range));
            state.recount(service);
        }
    }

    /// Maps the file anew over all of a shared mapping that is plain, so that nothing keeps parts of it apart: no advice, which is lost. Nothing is done where it shows
    /// anything else. It reads all of /proc/self/maps.
    pub fn unite(&self) {
        let pages = self.area().pages();
        if self.area().sharing() == Sharing::Shared
            && self.is_plain(pages)
            && self.shows_the_file(&[pages])
        {
            self.plain_now(&mut self.hold().state, pages);
        }
    }

    /// Whether what of `range` is plain maps the file yet: what lies there in its place is nothing that a trap may be put over. It reads all of /proc/self/maps.
    #[must_use]
    pub fn shows_the_file(&self, ranges: &[PageRange]) -> bool {
        let held = self.hold();
        let area = held.state.area;
        let (ino, shared) = (self.file().info().ino, area.sharing() == Sharing::Shared);
        let lines = self.service().with_descriptors(read_maps);
        ranges.iter().all(|range| {
            let plain = held.state.runs.all(range.intersect(area.pages));
            plain.iter().filter(|run| run.state == RunState::Plain).all(|run| {
                let (start, length_bytes) = area.span(run.pages);
                let over = lines.iter().filter(|line| overlaps(line, start, length_bytes));
                let mut shown = 0;
                let all_agree = over.into_iter().all(|line| {
                    let from = line.addresses.start.max(start);
                    shown += line.addresses.end.min(start + length_bytes) - from;
                    let offset = line.offset_bytes + (from - line.addresses.start) as u64;
                    let expected = run.pages.start.byte() + (from - start) as u64;
                    line.ino == ino && line.is_shared == shared && offset == expected
                });
                all_agree && shown == length_bytes
            })
        })
    }
}

/// The same for who has the space. On a service thread.
pub(crate) fn forget_strangers_in(service: &Service, state: &mut State, range: PageRange) {
    for run in state.runs.all(range) {
        let (start, length_bytes) = state.area.span(run.pages);
        let sharing = state.area.sharing();
        if run.state != RunState::Plain
            && !is_ours(service, run.state, sharing, start, length_bytes)
        {
            forget_in(service, state, run.pages, run.state);
        }
    }
}

/// Whether all that is mapped there is ours. On a service thread.
pub(crate) fn is_ours(
    service: &Service,
    state: RunState,
    sharing: Sharing,
    address: usize,
    length_bytes: usize,
) -> bool {
    let Catcher::Userfaultfd(uffd) = service.catcher() else {
        let makings = Makings::of(service);
        let over = mappings_over(service, address, length_bytes);
        let ours = over.iter().filter(|found| makings.are_of(found, state, sharing));
        let covered = ours.map(|found| {
            let end = found.addresses.end.min(address + length_bytes);
            end - found.addresses.start.max(address)
        });
        return covered.sum::<usize>() == length_bytes;
    };
    let protection = match state {
        // As it is; private copies are asked for once more.
        RunState::Zero => uffd::Protection::Stores,
        RunState::Trap | RunState::Plain => uffd::Protection::Unchanged,
    };
    uffd.protect(address, length_bytes, protection) != Err(Errno::NOENT)
}

/// Finds out which parts of `pages` are ours, mapping by mapping, and forgets the others. On a service thread.
pub(crate) fn forget_in(service: &Service, state: &mut State, pages: PageRange, kind: RunState) {
    let (start, length_bytes) = state.area.span(pages);
    let (mut ours, makings) = (Vec::new(), Makings::of(service));
    for line in &mappings_over(service, start, length_bytes) {
        let from = line.addresses.start.max(start);
        let to = line.addresses.end.min(start + length_bytes);
        let is_ours = match service.catcher() {
            Catcher::Userfaultfd(_) => {
                is_ours(service, kind, state.area.sharing(), from, to - from)
            }
            Catcher::Signals(_) => makings.are_of(line, kind, state.area.sharing()),
        };
        if is_ours {
            ours.push(pages_at(&state.area, from, to));
        }
    }
    state.runs.set(pages, RunState::Plain);
    for part in ours {
        state.runs.set(part, kind);
    }
}

fn pages_at(area: &VmaArea, from: usize, to: usize) -> PageRange {
    let first = area.pages.start.plus(((from - area.address) >> PAGE_SHIFT) as u64);
    let pages = PageRange::new(first, ((to - from) >> PAGE_SHIFT) as u64);
    debug_assert_eq!(bytes(pages), to - from, "mappings are made of pages");
    pages
}

const fn overlaps(line: &Found, start: usize, length_bytes: usize) -> bool {
    line.addresses.start < start + length_bytes && start < line.addresses.end
}

/// All mappings of the process. On a service thread. Where they cannot be read there are none, and so nothing is ours.
pub(crate) fn read_maps() -> Vec<Found> {
    let text = fd::read_all(c"/proc/self/maps").unwrap_or_default();
    String::from_utf8_lossy(&text).lines().filter_map(parse).collect()
}

/// `start-end perms offset dev inode path`, numbers in hexadecimal but for the inode.
fn parse(line: &str) -> Option<Found> {
    let mut fields = line.split_ascii_whitespace();
    let (start, end) = fields.next()?.split_once('-')?;
    let start = usize::from_str_radix(start, 16).ok()?;
    let end = usize::from_str_radix(end, 16).ok()?;
    let rights = fields.next()?.as_bytes();
    let [read @ (b'r' | b'-'), write @ (b'w' | b'-'), b'x' | b'-', sharing @ (b's' | b'p')] =
        rights
    else {
        return None;
    };
    let (may_be_loaded_from, may_be_stored_to) = (*read == b'r', *write == b'w');
    let is_shared = *sharing == b's';
    let offset_bytes = u64::from_str_radix(fields.next()?, 16).ok()?;
    let ino = fields.nth(1)?.parse().ok()?;
    let is_of_pages = start % mem::PAGE == 0 && end % mem::PAGE == 0 && start < end;
    is_of_pages.then_some(Found {
        addresses: start..end,
        may_be_loaded_from,
        may_be_stored_to,
        is_shared,
        offset_bytes,
        ino,
    })
}

/// For the fuzzer: the addresses of a line, whether it is shared and may be stored to, its offset and its inode.
#[cfg(fuzzing)]
pub fn any_line(line: &str) -> Option<(std::ops::Range<usize>, bool, bool, u64, u64)> {
    parse(line).map(|found| {
        let Found { addresses, may_be_stored_to, is_shared, offset_bytes, ino, .. } = found;
        (addresses, is_shared, may_be_stored_to, offset_bytes, ino)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_maps_are_understood() {
        let line = parse("7f0000000000-7f0000200000 rw-s 00400000 00:1b 77     /dev/shm/a b");
        let line = line.expect("a line");
        assert_eq!(line.addresses, 0x7f00_0000_0000..0x7f00_0020_0000);
        assert_eq!((line.is_shared, line.offset_bytes, line.ino), (true, 0x40_0000, 77));
        let stack = parse("7ffd3c1f8000-7ffd3c219000 rw-p 00000000 00:00 0   [stack]");
        assert!(stack.is_some_and(|line| !line.is_shared && line.ino == 0));
        let trap = parse(
            "7f0000000000-7f0000200000 ---s 7f0000000000 00:01 9  /memfd:udax traps (deleted)",
        );
        let trap = trap.expect("a line");
        let makings = Makings { traps: Some(9), zeros: Some(8) };
        assert!(makings.are_of(&trap, RunState::Trap, Sharing::Shared));
        assert!(!makings.are_of(&trap, RunState::Zero, Sharing::Shared));
        let zeros = parse("7f0000000000-7f0000200000 rw-p 7f0000000000 00:06 8  /dev/zero");
        let zeros = zeros.expect("a line");
        assert!(makings.are_of(&zeros, RunState::Zero, Sharing::Private));
        assert!(!makings.are_of(&zeros, RunState::Zero, Sharing::Shared), "it can be stored to");
        let memory = parse("7f0000000000-7f0000200000 rw-p 00000000 00:00 0").expect("a line");
        assert!(!makings.are_of(&memory, RunState::Zero, Sharing::Private));
        assert!(parse("").is_none() && parse("7f00-8000").is_none());
        for addresses in ["3000-1000", "1000-1000", "1000-2fff", "1-2000"] {
            assert_eq!(parse(&format!("{addresses} rw-s 00000000 00:1b 7")), None, "{addresses}");
        }
        for rights in ["---rw-s", "rw-", "rw-z", "wr-s", "rwss"] {
            assert_eq!(parse(&format!("1000-3000 {rights} 00000000 00:1b 7")), None, "{rights}");
        }
    }

    #[test]
    fn the_mappings_of_this_process_are_found() {
        let here = (&raw const MARK).addr();
        let lines = read_maps();
        assert!(lines.iter().any(|line| line.addresses.contains(&here)));
        assert!(lines.windows(2).all(|pair| pair[0].addresses.end <= pair[1].addresses.start));
    }

    static MARK: u8 = 1;
}
