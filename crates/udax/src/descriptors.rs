//! Looks at the program's descriptors and mappings through /proc.

use crate::served::FileKey;
use rustix::fs::{AtFlags, FileType, Mode, OFlags, RawDir};
use std::mem::MaybeUninit;
use std::ops::Range;
use std::os::fd::OwnedFd;
use udax_core::{PAGE_BYTES, PageIndex, PageRange};
use udax_linux::Service;

/// A regular file that a descriptor of the program refers to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct OpenFile {
    pub(crate) fd: i32,
    pub(crate) key: FileKey,
    /// Whether the file may be written through it.
    pub(crate) can_write: bool,
}

/// The regular files that the program has open. /proc/self is the program's own table, also when a service thread looks.
///
/// # Errors
/// Of open(2) and getdents64(2): no descriptor left, above all. Nothing is known then.
pub(crate) fn open_files() -> Result<Vec<OpenFile>, rustix::io::Errno> {
    let mut files = Vec::new();
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let dir = rustix::fs::open("/proc/self/fd", flags, Mode::empty())?;
    let mut buffer = [MaybeUninit::uninit(); 4096];
    let mut entries = RawDir::new(&dir, &mut buffer);
    while let Some(entry) = entries.next() {
        let entry = entry?;
        let Some(fd) = entry.file_name().to_str().ok().and_then(|name| name.parse().ok()) else {
            continue;
        };
        let Ok(stat) = rustix::fs::statat(&dir, entry.file_name(), AtFlags::empty()) else {
            continue;
        };
        if FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile {
            let key = FileKey { dev: stat.st_dev, ino: stat.st_ino };
            // The link's own permissions are the descriptor's.
            let link = rustix::fs::statat(&dir, entry.file_name(), AtFlags::SYMLINK_NOFOLLOW);
            let can_write =
                link.map_or(true, |link| Mode::from_raw_mode(link.st_mode).contains(Mode::WUSR));
            files.push(OpenFile { fd, key, can_write });
        }
    }
    Ok(files)
}

/// The file behind a descriptor, if it is a regular one.
pub(crate) fn key_of(fd: i32) -> Option<FileKey> {
    let stat = rustix::fs::statat(rustix::fs::CWD, format!("/proc/self/fd/{fd}"), AtFlags::empty());
    let stat = stat.ok()?;
    (FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile)
        .then_some(FileKey { dev: stat.st_dev, ino: stat.st_ino })
}

/// Opens a file for reading by the name that it had, if it is still that file.
pub(crate) fn open_again(name: &str, key: FileKey) -> Option<OwnedFd> {
    // Whatever else has the name now is not waited for.
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let fd = rustix::fs::open(name, flags, Mode::empty()).ok()?;
    let stat = rustix::fs::fstat(&fd).ok()?;
    (FileKey { dev: stat.st_dev, ino: stat.st_ino } == key).then_some(fd)
}

/// The name of a descriptor's file, for people.
pub(crate) fn name_of(fd: i32) -> String {
    rustix::fs::readlink(format!("/proc/self/fd/{fd}"), Vec::new())
        .map_or_else(|_| format!("descriptor {fd}"), |name| name.to_string_lossy().into_owned())
}

/// The file pages of all shared mappings of inode `ino` in this process, whoever made them. The device is not compared: btrfs
/// shows another here than stat(2) does. A stranger with the same number merely costs a hole its zeros.
///
/// `except` is left out: the mapping that is about to be served. Where the mappings cannot be read it is all of the file.
pub(crate) fn mapped_shared(service: &Service, ino: u64, except: &Range<usize>) -> Vec<PageRange> {
    let Ok(maps) = service.with_descriptors(|| read_all("/proc/self/maps")) else {
        return vec![PageRange::of_bytes(0, i64::MAX.unsigned_abs())];
    };
    // Few lines of thousands have the number in them at all.
    let number = format!(" {ino} ");
    let lines = maps.split(|&byte| byte == b'\n').filter(|line| contains(line, number.as_bytes()));
    lines.filter_map(|line| shared_pages(&String::from_utf8_lossy(line), ino, except)).collect()
}

fn contains(line: &[u8], word: &[u8]) -> bool {
    line.windows(word.len()).any(|part| part == word)
}

/// Whether this process has less than half of the mappings that the kernel allows.
pub(crate) fn has_room_for_mappings(service: &Service) -> bool {
    const USUAL_LIMIT: usize = 65_530;
    let (maps, limit) = service
        .with_descriptors(|| (read_all("/proc/self/maps"), read_all("/proc/sys/vm/max_map_count")));
    let Ok(maps) = maps else { return false };
    let limit = limit.unwrap_or_default();
    let limit = String::from_utf8_lossy(&limit).trim().parse().unwrap_or(USUAL_LIMIT);
    maps.iter().filter(|&&byte| byte == b'\n').count() < limit / 2
}

/// The rights of the mapping at `address`, as mprotect(2) has them.
pub(crate) fn rights_at(service: &Service, address: usize) -> Option<i32> {
    let maps = service.with_descriptors(|| read_all("/proc/self/maps")).ok()?;
    rights_in(&String::from_utf8_lossy(&maps), address)
}

fn rights_in(maps: &str, address: usize) -> Option<i32> {
    let line =
        maps.lines().filter_map(Line::parse).find(|line| line.addresses.contains(&address))?;
    let has = |letter: char| line.permissions.contains(letter);
    Some(i32::from(has('r')) | i32::from(has('w')) << 1 | i32::from(has('x')) << 2)
}

/// Whether anything in `addresses` can be loaded from or stored to, as far as can be told.
pub(crate) fn is_accessible(service: &Service, addresses: &Range<usize>) -> bool {
    let maps = service.with_descriptors(|| read_all("/proc/self/maps"));
    maps.map_or(true, |maps| accessible_in(&String::from_utf8_lossy(&maps), addresses))
}

fn accessible_in(maps: &str, addresses: &Range<usize>) -> bool {
    maps.lines().filter_map(Line::parse).any(|line| {
        let overlaps = line.addresses.start < addresses.end && addresses.start < line.addresses.end;
        overlaps && !line.permissions.starts_with("---")
    })
}

/// One line of /proc/PID/maps: `start-end perms offset dev inode path`, numbers in hexadecimal but for the inode.
struct Line<'l> {
    /// Of whole pages, and not empty.
    addresses: Range<usize>,
    permissions: &'l str,
    offset_bytes: u64,
    ino: u64,
}

impl<'l> Line<'l> {
    fn parse(line: &'l str) -> Option<Self> {
        let mut fields = line.split_ascii_whitespace();
        let (start, end) = fields.next()?.split_once('-')?;
        let permissions = fields.next().filter(|rights| are_rights(rights))?;
        let offset_bytes = u64::from_str_radix(fields.next()?, 16).ok()?;
        let ino = fields.nth(1)?.parse().ok()?;
        let page = |text| {
            usize::from_str_radix(text, 16).ok().filter(|address| address.is_multiple_of(4096))
        };
        let addresses = page(start)?..page(end)?;
        (!addresses.is_empty()).then_some(Self { addresses, permissions, offset_bytes, ino })
    }
}

/// Four letters: `r`, `w` and `x` or a dash for each, and `s` or `p`.
fn are_rights(text: &str) -> bool {
    matches!(text.as_bytes(), [b'r' | b'-', b'w' | b'-', b'x' | b'-', b's' | b'p'])
}

/// The file pages that a line shows, if it is a shared mapping of that inode.
fn shared_pages(line: &str, ino: u64, except: &Range<usize>) -> Option<PageRange> {
    let line = Line::parse(line)?;
    if line.ino != ino || !line.permissions.ends_with('s') {
        return None;
    }
    let Range { start, end } = line.addresses;
    if except.start <= start && end <= except.end {
        return None;
    }
    Some(PageRange::new(PageIndex::of_byte(line.offset_bytes), (end - start) as u64 / PAGE_BYTES))
}

/// For the fuzzer: what each of the three questions above is answered by one line.
#[cfg(fuzzing)]
pub mod fuzzing {
    use super::{PageRange, Range};

    /// The pages of a shared mapping of inode `ino`.
    pub fn shared_pages(line: &str, ino: u64) -> Option<PageRange> {
        super::shared_pages(line, ino, &(0..0))
    }

    /// The rights at an address.
    pub fn rights_in(line: &str, address: usize) -> Option<i32> {
        super::rights_in(line, address)
    }

    /// Whether anything there can be loaded from or stored to.
    pub fn accessible_in(line: &str, addresses: &Range<usize>) -> bool {
        super::accessible_in(line, addresses)
    }
}

fn read_all(path: &str) -> Result<Vec<u8>, rustix::io::Errno> {
    let file = rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    let (mut all, mut part) = (Vec::new(), vec![0; 64 << 10]);
    loop {
        match rustix::io::read(&file, &mut part)? {
            0 => return Ok(all),
            count => all.extend_from_slice(&part[..count]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shared_mapping_of_the_inode_is_found_in_a_maps_line() {
        let line = "7f0000000000-7f0000200000 rw-s 00400000 00:1b 77                 /dev/shm/a b";
        let (none, itself) = (0..0, 0x7f00_0000_0000..0x7f00_0020_0000);
        let pages = shared_pages(line, 77, &none).expect("shared, and the inode");
        assert_eq!((pages.start.0, pages.len()), (0x400, 0x200));
        assert!(shared_pages(line, 78, &none).is_none());
        assert!(shared_pages(&line.replace("rw-s", "rw-p"), 77, &none).is_none());
        assert!(shared_pages(line, 77, &itself).is_none());
    }

    #[test]
    fn rights_are_those_of_the_line_and_what_has_none_is_not_accessible() {
        let maps = "1000-3000 r-xp 00000000 00:1b 7 /bin/a\n3000-5000 ---p 00000000 00:00 0\n";
        assert_eq!(rights_in(maps, 0x2fff), Some(5));
        assert_eq!((rights_in(maps, 0x3000), rights_in(maps, 0x5000)), (Some(0), None));
        assert!(accessible_in(maps, &(0x2000..0x9000)));
        assert!(!accessible_in(maps, &(0x3000..usize::MAX)));
    }

    #[test]
    fn a_line_of_no_pages_or_of_parts_of_pages_is_none() {
        for addresses in ["3000-1000", "1000-1000", "1000-2fff", "1-2000", "1000-", "-1000"] {
            let line = format!("{addresses} rw-s 00000000 00:1b 7");
            assert!(shared_pages(&line, 7, &(0..0)).is_none(), "{addresses}");
            assert_eq!(rights_in(&line, 0x1000), None, "{addresses}");
        }
        for rights in ["---rw-s", "rw-", "rw-z", "wr-s", "rwss"] {
            let line = format!("1000-3000 {rights} 00000000 00:1b 7");
            assert_eq!(rights_in(&line, 0x1000), None, "{rights}");
        }
    }
}
