//! Reading scripts.

use super::{Falloc, Line, MapFlags, Msync, Op, OpenAs, Place, Prot, Unreadable};

/// Reads a script.
///
/// # Errors
/// The first line with a known operation whose arguments make no sense.
pub fn parse(text: &str) -> Result<Vec<Line>, Unreadable> {
    let mut lines = Vec::new();
    for (number, line) in (1..).zip(text.lines()) {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let words: Vec<&str> = line.split_whitespace().collect();
        let op = Words { words: &words[1..], next: 0 }
            .op(words[0])
            .ok_or_else(|| Unreadable { number, text: line.to_owned() })?;
        lines.push(Line { number, text: line.to_owned(), op });
    }
    Ok(lines)
}

/// A number of bytes: decimal or `0x`, with suffixes, as a sum or difference.
#[must_use]
pub fn bytes(text: &str) -> Option<u64> {
    let mut total: u64 = 0;
    let mut rest = text;
    let mut negative = false;
    loop {
        let end = rest.find(['+', '-']).unwrap_or(rest.len());
        let term = one_term(&rest[..end])?;
        total = if negative { total.checked_sub(term)? } else { total.checked_add(term)? };
        if end == rest.len() {
            return Some(total);
        }
        negative = rest.as_bytes()[end] == b'-';
        rest = &rest[end + 1..];
    }
}

fn one_term(text: &str) -> Option<u64> {
    if let Some(hex) = text.strip_prefix("0x") {
        return u64::from_str_radix(hex, 16).ok();
    }
    let (digits, unit) = match text.chars().last()? {
        'k' => (&text[..text.len() - 1], 1 << 10),
        'm' => (&text[..text.len() - 1], 1 << 20),
        'g' => (&text[..text.len() - 1], 1 << 30),
        't' => (&text[..text.len() - 1], 1 << 40),
        'p' => (&text[..text.len() - 1], 4096),
        'h' => (&text[..text.len() - 1], 2 << 20),
        _ => (text, 1),
    };
    digits.parse::<u64>().ok()?.checked_mul(unit)
}

struct Words<'a> {
    words: &'a [&'a str],
    next: usize,
}

impl<'a> Words<'a> {
    fn word(&mut self) -> Option<&'a str> {
        let word = self.words.get(self.next)?;
        self.next += 1;
        Some(word)
    }

    fn name(&mut self) -> Option<String> {
        self.word().map(str::to_owned)
    }

    fn number(&mut self) -> Option<u64> {
        bytes(self.word()?)
    }

    fn number_or(&mut self, default: u64) -> Option<u64> {
        self.word().map_or(Some(default), bytes)
    }

    fn hex(&mut self) -> Option<u8> {
        u8::from_str_radix(self.word()?, 16).ok()
    }

    fn place(&mut self) -> Option<Place> {
        Some(Place { offset: self.number()?, length: self.number()? })
    }

    /// `None`: there is none, which is allowed; `Some(None)` that it makes no sense.
    fn maybe_place(&mut self) -> Option<Option<Place>> {
        if self.next == self.words.len() { Some(None) } else { self.place().map(Some) }
    }

    fn rest(&self) -> &'a [&'a str] {
        &self.words[self.next.min(self.words.len())..]
    }

    fn open(&self) -> Option<OpenAs> {
        let mut open = OpenAs::default();
        for word in self.rest() {
            match *word {
                "ro" => open.read_only = true,
                "dsync" | "sync" => open.dsync = true,
                // A DAX file is never cached, and needs no alignment.
                "direct" | "rw" => {}
                _ => return None,
            }
        }
        Some(open)
    }

    fn prot(&mut self) -> Option<Prot> {
        match self.word()? {
            "ro" => Some(Prot::ReadOnly),
            "rw" => Some(Prot::ReadWrite),
            "wo" => Some(Prot::WriteOnly),
            "none" => Some(Prot::None),
            _ => None,
        }
    }

    fn falloc(&mut self) -> Option<Falloc> {
        match self.word()? {
            "alloc" => Some(Falloc::Alloc),
            "keep" => Some(Falloc::Keep),
            "punch" => Some(Falloc::Punch),
            "zero" => Some(Falloc::Zero),
            "zerokeep" => Some(Falloc::ZeroKeep),
            "collapse" => Some(Falloc::Collapse),
            "insert" => Some(Falloc::Insert),
            "unshare" => Some(Falloc::Unshare),
            _ => None,
        }
    }

    fn mmap(&mut self) -> Option<Op> {
        let (map, file, place) = (self.name()?, self.name()?, self.place()?);
        let mut flags = MapFlags::default();
        match self.word()? {
            "shared" => {}
            "private" => flags.private = true,
            "validate" => flags.validate = true,
            _ => return None,
        }
        let prot = self.prot()?;
        for word in self.rest() {
            match *word {
                "sync" => (flags.sync, flags.validate) = (true, true),
                "rawsync" => flags.sync = true,
                "populate" | "locked" => flags.populate = true,
                "mis" => flags.misaligned = true,
                "auto" => flags.auto = true,
                "noreplace" => flags.noreplace = true,
                _ => return None,
            }
        }
        Some(Op::Mmap { map, file, place, prot, flags })
    }

    fn pwrite(&mut self) -> Option<Op> {
        let (file, place, byte) = (self.name()?, self.place()?, self.hex()?);
        match self.rest() {
            [] => Some(Op::Pwrite { file, place, byte, dsync: false }),
            ["dsync" | "sync"] => Some(Op::Pwrite { file, place, byte, dsync: true }),
            _ => None,
        }
    }

    fn msync(&mut self) -> Option<Op> {
        let map = self.name()?;
        let place = self.maybe_place()?;
        let how = match self.rest() {
            [] | ["sync"] => Msync::Sync,
            ["async"] => Msync::Async,
            ["inval"] => Msync::Invalidate,
            _ => return None,
        };
        Some(Op::Msync { map, place, how })
    }

    fn touch(&mut self) -> Option<Op> {
        let (map, page, count) = (self.name()?, self.number()?, self.number()?);
        let write = match self.word()? {
            "r" => false,
            "w" => true,
            _ => return None,
        };
        let stride = self.number_or(1)?;
        let value = if self.next < self.words.len() { self.hex()? } else { 0x5a };
        Some(Op::Touch { map, page, count, write, stride, value })
    }

    fn op(&mut self, name: &str) -> Option<Op> {
        self.file_op(name).or_else(|| self.map_op(name)).unwrap_or_else(|| {
            Some(match name {
                "fork" => Op::Fork,
                "endfork" => Op::EndFork,
                "dropcaches" => Op::DropCaches { what: self.number()? },
                "remount" => Op::Remount { options: self.rest().join(" ") },
                "trace-start" => Op::TraceStart,
                "trace-stop" => Op::TraceStop,
                "trace-dump" => Op::TraceDump,
                "trace-count" => Op::TraceCount,
                "trace-clear" => Op::TraceClear,
                "label" => Op::Label,
                "get" | "set" | "vmstat" | "faults" | "sleep" => Op::MachineOnly,
                _ => Op::Unknown,
            })
        })
    }

    /// `None`: no operation on a file; `Some(None)`: one that makes no sense.
    fn file_op(&mut self, name: &str) -> Option<Option<Op>> {
        let known = [
            "create",
            "open",
            "close",
            "unlink",
            "truncate",
            "falloc",
            "pread",
            "pwrite",
            "preadmap",
            "pwritemap",
            "fsync",
            "fdatasync",
            "chattr",
            "xa",
            "fiemap",
            "seek",
            "stat",
            "hash",
            "pages",
            "hexdump",
        ];
        known.contains(&name).then(|| match name {
            "pwrite" => self.pwrite(),
            _ => {
                let file = self.name()?;
                Some(match name {
                    "create" => {
                        let size = self.number()?;
                        Op::Create { file, size, open: self.open()? }
                    }
                    "open" => Op::Open { file, open: self.open()? },
                    "close" => Op::Close { file },
                    "unlink" => Op::Unlink { file },
                    "truncate" => Op::Truncate { file, size: self.number()? },
                    "falloc" => Op::Falloc { file, mode: self.falloc()?, place: self.place()? },
                    "pread" => Op::Pread { file, place: self.place()? },
                    "preadmap" | "pwritemap" => {
                        let (place, map, at) = (self.place()?, self.name()?, self.number()?);
                        if name == "preadmap" {
                            Op::PreadMap { file, place, map, at }
                        } else {
                            Op::PwriteMap { file, place, map, at }
                        }
                    }
                    "fsync" | "fdatasync" => Op::Fsync { file },
                    "chattr" => Op::Chattr { file, change: self.name()? },
                    "xa" => Op::Xa { file },
                    "fiemap" => Op::Fiemap { file },
                    "seek" => Op::Seek { file },
                    "stat" => Op::Stat { file },
                    "hash" => Op::Hash { file },
                    "pages" => Op::Pages { file },
                    _ => Op::Hexdump { file, place: self.place()? },
                })
            }
        })
    }

    fn map_op(&mut self, name: &str) -> Option<Option<Op>> {
        let known = [
            "mmap", "munmap", "mprotect", "mremap", "mlock", "madvise", "read", "write", "touch",
            "fill", "msync", "smaps", "pt", "mincore",
        ];
        known.contains(&name).then(|| match name {
            "mmap" => self.mmap(),
            "msync" => self.msync(),
            "touch" => self.touch(),
            _ => {
                let map = self.name()?;
                Some(match name {
                    "munmap" => Op::Munmap { map, place: self.maybe_place()? },
                    "mprotect" => Op::Mprotect { map, place: self.place()?, prot: self.prot()? },
                    "mremap" => {
                        let length = self.number()?;
                        Op::Mremap { map, length, may_move: self.rest().contains(&"maymove") }
                    }
                    "mlock" => Op::Mlock { map, place: self.maybe_place()? },
                    "madvise" => {
                        let place = self.place()?;
                        Op::Madvise { map, place, advice: self.name()? }
                    }
                    "read" => Op::Read { map, page: self.number()?, byte: self.number_or(0)? },
                    "write" => {
                        let (page, value) = (self.number()?, self.hex()?);
                        Op::Write { map, page, value, byte: self.number_or(0)? }
                    }
                    "fill" => {
                        let (page, count) = (self.number()?, self.number()?);
                        Op::Fill { map, page, count, value: self.hex()? }
                    }
                    "smaps" => Op::Smaps { map },
                    "pt" => Op::Pt { map, place: self.maybe_place()? },
                    _ => Op::Mincore { map },
                })
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_sums_with_suffixes() {
        assert_eq!(bytes("1m+4k"), Some((1 << 20) + 4096));
        assert_eq!(bytes("8m-4k"), Some((8 << 20) - 4096));
        assert_eq!(
            (bytes("3p"), bytes("2h"), bytes("0x10")),
            (Some(12288), Some(4 << 20), Some(16))
        );
        assert_eq!((bytes("x"), bytes("1k-2k"), bytes("")), (None, None, None));
    }

    #[test]
    fn unknown_operations_are_told_from_broken_ones() {
        let lines =
            parse("# c\n\nnonsense a b\nmmap M f 0 8m shared rw sync mis\n").expect("reads");
        assert_eq!((lines[0].number, &lines[0].op), (3, &Op::Unknown));
        let Op::Mmap { flags, .. } = &lines[1].op else { panic!("{:?}", lines[1]) };
        assert!(flags.sync && flags.validate && flags.misaligned && !flags.private);
        assert_eq!(parse("read M").expect_err("no page").number, 1);
        assert!(parse("mmap M f 0 8m shared rw upside-down").is_err());
    }
}
