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
pub(crate) fn open_files() -> Vec<OpenFile> {
    let mut files = Vec::new();
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let Ok(dir) = rustix::fs::open("/proc/self/fd", flags, Mode::empty()) else { return files };
    let mut buffer = [MaybeUninit::uninit(); 4096];
    let mut entries = RawDir::new(&dir, &mut buffer);
    while let Some(Ok(entry)) = entries.next() {
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
    files
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
/// `except` is left out: the mapping that is about to be served.
pub(crate) fn mapped_shared(service: &Service, ino: u64, except: &Range<usize>) -> Vec<PageRange> {
    let maps = service.with_descriptors(|| read_all("/proc/self/maps"));
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
    let limit = String::from_utf8_lossy(&limit).trim().parse().unwrap_or(USUAL_LIMIT);
    maps.iter().filter(|&&byte| byte == b'\n').count() < limit / 2
}

/// The rights of the mapping at `address`, as mprotect(2) has them.
pub(crate) fn rights_at(service: &Service, address: usize) -> Option<i32> {
    let maps = service.with_descriptors(|| read_all("/proc/self/maps"));
    String::from_utf8_lossy(&maps).lines().find_map(|line| {
        let (addresses, rest) = line.split_once(' ')?;
        let (start, end) = addresses.split_once('-')?;
        let start = usize::from_str_radix(start, 16).ok()?;
        let end = usize::from_str_radix(end, 16).ok()?;
        let has = |letter: char| rest.get(..3).is_some_and(|rights| rights.contains(letter));
        let rights = i32::from(has('r')) | i32::from(has('w')) << 1 | i32::from(has('x')) << 2;
        (start..end).contains(&address).then_some(rights)
    })
}

/// Whether anything in `addresses` can be loaded from or stored to.
pub(crate) fn is_accessible(service: &Service, addresses: &Range<usize>) -> bool {
    let maps = service.with_descriptors(|| read_all("/proc/self/maps"));
    String::from_utf8_lossy(&maps).lines().any(|line| {
        let Some((range, rest)) = line.split_once(' ') else { return false };
        let Some((start, end)) = range.split_once('-') else { return false };
        let address = |text: &str| usize::from_str_radix(text, 16).unwrap_or(0);
        let overlaps = address(start) < addresses.end && addresses.start < address(end);
        overlaps && !rest.starts_with("---")
    })
}

/// One line of /proc/PID/maps: `start-end perms offset dev inode path`, numbers in hexadecimal but for the inode.
fn shared_pages(line: &str, ino: u64, except: &Range<usize>) -> Option<PageRange> {
    let mut fields = line.split_ascii_whitespace();
    let (start, end) = fields.next()?.split_once('-')?;
    let permissions = fields.next()?;
    let offset = u64::from_str_radix(fields.next()?, 16).ok()?;
    let inode: u64 = fields.nth(1)?.parse().ok()?;
    if inode != ino || !permissions.ends_with('s') {
        return None;
    }
    let start = usize::from_str_radix(start, 16).ok()?;
    let end = usize::from_str_radix(end, 16).ok()?;
    if except.start <= start && end <= except.end {
        return None;
    }
    let length = end.checked_sub(start)? as u64;
    Some(PageRange::new(PageIndex::of_byte(offset), length / PAGE_BYTES))
}

/// For the fuzzer.
#[cfg(fuzzing)]
pub fn maps_line(line: &str) {
    for ino in [0, 1, 42] {
        let _ = shared_pages(line, ino, &(0..0));
    }
}

fn read_all(path: &str) -> Vec<u8> {
    let mut all = Vec::new();
    let Ok(file) = rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()) else {
        return all;
    };
    let mut part = vec![0; 64 << 10];
    while let Ok(count @ 1..) = rustix::io::read(&file, &mut part) {
        all.extend_from_slice(&part[..count]);
    }
    all
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
}
