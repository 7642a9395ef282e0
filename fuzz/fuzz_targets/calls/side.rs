//! One side of the comparison.

use crate::{ARENA, Length, Offset, Op, PAGE, Part, Place, UNIT};
use libc::{
    MAP_ANONYMOUS, MAP_FIXED, MAP_FIXED_NOREPLACE, MAP_NORESERVE, MAP_POPULATE, MAP_PRIVATE,
    MAP_SHARED,
};
use std::fs::{File, OpenOptions};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::FileExt as _;
use std::sync::OnceLock;

/// What lies around the arena, and is nothing to load or store.
const GUARD: usize = 4 * UNIT;
const FILE: usize = 4 * UNIT;
const READ_WRITE: i32 = 3;

pub type Answer = Result<i64, i32>;
pub type Syscall = unsafe extern "C" fn(i64, ...) -> i64;

/// One that udax sees, or one of the kernel alone.
pub struct Side {
    arena: usize,
    whole: usize,
    files: [File; 2],
    sockets: [i32; 2],
    syscall: Syscall,
}

/// The C library's own.
pub fn kernels() -> Syscall {
    static FOUND: OnceLock<usize> = OnceLock::new();
    // SAFETY: a name, and the function behind the preloaded library's.
    let found = *FOUND.get_or_init(|| {
        unsafe { libc::dlsym(libc::RTLD_NEXT, c"syscall".as_ptr()) }.expose_provenance()
    });
    assert!(found != 0 && found != libc::syscall as *const () as usize, "there are two of them");
    // SAFETY: it is a function of that type.
    unsafe { std::mem::transmute::<usize, Syscall>(found) }
}

const PROTS: [i32; 7] = [0, 1, 3, 2, 5, 7, 0x100 | 1];
const ADVICE: [i32; 19] = [0, 1, 2, 3, 4, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 20, 21, 22, 23];

/// Where faults come by signals, zeros are shown by a mapping that may be read, also of a file that may only be stored to: the kernel reads them there, and would
/// not read the file.
fn as_engine_has_it(prot: i32) -> i32 {
    static BY_SIGNALS: OnceLock<bool> = OnceLock::new();
    let by_signals =
        BY_SIGNALS.get_or_init(|| std::env::var("UDAX_ENGINE").is_ok_and(|name| name == "signals"));
    if prot == libc::PROT_WRITE && *by_signals { READ_WRITE } else { prot }
}

impl Side {
    pub fn new(syscall: Syscall) -> Self {
        let dir = tempfile::tempdir_in("/dev/shm").expect("a directory in memory");
        let files = [false, true].map(|read_only| {
            let path = dir.path().join(if read_only { "read-only" } else { "file" });
            let file = OpenOptions::new()
                .read(true)
                .write(true)
                .create_new(true)
                .open(&path)
                .expect("a file");
            file.set_len(FILE as u64).expect("a length");
            file.write_all_at(&[9; PAGE], (UNIT + 5 * PAGE) as u64).expect("some data");
            if read_only {
                drop(file);
                File::open(&path).expect("opened again")
            } else {
                file
            }
        });
        let mut sockets = [0; 2];
        // SAFETY: two numbers are what it fills in.
        let made = unsafe {
            libc::socketpair(
                libc::AF_UNIX,
                libc::SOCK_DGRAM | libc::SOCK_NONBLOCK,
                0,
                sockets.as_mut_ptr(),
            )
        };
        assert_eq!(made, 0);
        let mut side = Self { arena: 0, whole: 0, files, sockets, syscall };
        let reserve = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
        side.whole = side.map(0, ARENA + 2 * GUARD, 0, reserve).expect("room") as usize;
        side.arena = (side.whole + GUARD).next_multiple_of(UNIT);
        // Memory, nothing, and the file: served, as nobody could be using the addresses.
        side.map(side.arena, UNIT, READ_WRITE, reserve | MAP_FIXED).expect("memory");
        let (at, file, shared) = (side.arena + 2 * UNIT, side.file(false), MAP_SHARED | MAP_FIXED);
        let map = [at, 2 * UNIT, READ_WRITE as usize, shared as usize, file, 2 * UNIT];
        side.call(libc::SYS_mmap, map).expect("mapped");
        side
    }

    fn map(&self, at: usize, length: usize, prot: i32, flags: i32) -> Answer {
        self.call(libc::SYS_mmap, [at, length, prot as usize, flags as usize, usize::MAX, 0])
    }

    fn call(&self, number: i64, [a, b, c, d, e, f]: [usize; 6]) -> Answer {
        // SAFETY: what the calls of this file change is in the arena, and in buffers that are given to them.
        let answer = unsafe { (self.syscall)(number, a, b, c, d, e, f) };
        // SAFETY: this thread's own.
        if answer == -1 { Err(unsafe { *libc::__errno_location() }) } else { Ok(answer) }
    }

    fn file(&self, read_only: bool) -> usize {
        self.files[usize::from(read_only)].as_raw_fd() as usize
    }

    fn at(&self, place: Place) -> usize {
        self.arena + place.offset()
    }

    /// Where a mapping came to lie; what lies outside goes at once.
    fn placed(&self, answer: Answer, length: usize) -> Answer {
        let at = answer? as usize;
        if (self.arena..self.arena + ARENA).contains(&at) {
            return Ok((at - self.arena) as i64);
        }
        let shown = self.copy(libc::SYS_process_vm_readv, at, &mut [0]);
        self.call(libc::SYS_munmap, [at, length, 0, 0, 0, 0]).expect("it was mapped");
        shown.map(|_| -1)
    }

    fn copy(&self, number: i64, at: usize, bytes: &mut [u8]) -> Answer {
        let ours = libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() };
        let theirs = libc::iovec {
            iov_base: std::ptr::with_exposed_provenance_mut(at),
            iov_len: bytes.len(),
        };
        let process = std::process::id() as usize;
        self.call(
            number,
            [
                process,
                (&raw const ours).expose_provenance(),
                1,
                (&raw const theirs).expose_provenance(),
                1,
                0,
            ],
        )
    }

    /// A byte as the program would load it.
    fn load(&self, at: usize) -> Result<u8, i32> {
        let mut byte = [0];
        self.copy(libc::SYS_process_vm_readv, at, &mut byte).map(|_| byte[0])
    }

    fn put(&self, at: usize, bytes: &mut [u8]) -> Answer {
        self.copy(libc::SYS_process_vm_writev, at, bytes)
    }

    fn vectors(&self, parts: &[Part]) -> Vec<u8> {
        let words = parts
            .iter()
            .flat_map(|part| [self.at(part.place), part.length.from(part.place.offset())]);
        words.flat_map(usize::to_ne_bytes).collect()
    }

    pub fn do_one(&self, op: &Op) -> Vec<Answer> {
        let range = |place: Place, length: Length| (self.at(place), length.from(place.offset()));
        let prot = |prot: u8| as_engine_has_it(PROTS[usize::from(prot) % PROTS.len()]);
        match *op {
            Op::Map { place, length, prot: rights, kind, file, offset } => {
                let (at, length) = range(place, length);
                let fixed = if kind & 8 == 0 { MAP_FIXED } else { MAP_FIXED_NOREPLACE };
                let populate = if kind & 16 == 0 { 0 } else { MAP_POPULATE };
                let kind = [MAP_SHARED, MAP_PRIVATE, MAP_PRIVATE | MAP_ANONYMOUS, 3, 0]
                    [usize::from(kind & 7) % 5];
                let flags = kind | fixed | populate;
                let mapped = self.call(
                    libc::SYS_mmap,
                    [
                        at,
                        length,
                        prot(rights) as usize,
                        flags as usize,
                        self.file(file),
                        offset.number() as usize,
                    ],
                );
                vec![self.placed(mapped, length)]
            }
            Op::Anywhere { length, prot: rights, private, file, offset } => {
                let length = length.from(0);
                let flags = if private { MAP_PRIVATE } else { MAP_SHARED } as usize;
                let mapped = self.call(
                    libc::SYS_mmap,
                    [
                        0,
                        length,
                        prot(rights) as usize,
                        flags,
                        self.file(file),
                        offset.number() as usize,
                    ],
                );
                vec![self.placed(mapped, length)]
            }
            Op::Unmap { place, length } => {
                let (at, length) = range(place, length);
                vec![self.call(libc::SYS_munmap, [at, length, 0, 0, 0, 0])]
            }
            Op::Protect { place, length, prot: rights } => {
                let (at, length) = range(place, length.that_wraps());
                vec![self.call(libc::SYS_mprotect, [at, length, prot(rights) as usize, 0, 0, 0])]
            }
            Op::Advise { place, length, advice } => {
                let (at, length) = range(place, length.that_wraps());
                let advice = ADVICE[usize::from(advice) % ADVICE.len()];
                vec![self.call(libc::SYS_madvise, [at, length, advice as usize, 0, 0, 0])]
            }
            Op::Sync { place, length, flags } => {
                let (at, length) = range(place, length.that_wraps());
                vec![self.call(libc::SYS_msync, [at, length, usize::from(flags % 8), 0, 0, 0])]
            }
            Op::Remap { old, old_length, new, new_length, flags } => {
                let (from, from_length) = range(old, old_length);
                let (to, to_length) = range(new, new_length);
                let flags = [0, 1, 3, 5, 7, 2][usize::from(flags) % 6];
                let moved =
                    self.call(libc::SYS_mremap, [from, from_length, to_length, flags, to, 0]);
                vec![self.placed(moved, to_length)]
            }
            Op::Load { place } => vec![self.load(self.at(place)).map(i64::from)],
            Op::Store { place, value } => vec![self.put(self.at(place), &mut [value])],
            Op::Transfer { write, part, offset } => {
                let (at, length) = range(part.place, part.length);
                let number = if write { libc::SYS_pwrite64 } else { libc::SYS_pread64 };
                vec![
                    self.call(number, [self.file(false), at, length, small(offset) as usize, 0, 0]),
                ]
            }
            Op::Vector { write, ref parts, count, at, offset } => {
                let mut vectors = self.vectors(parts);
                let put = self.put(self.at(at), &mut vectors);
                if put != Ok(vectors.len() as i64) {
                    return vec![self.hide(at, vectors.len(), put)];
                }
                let number = if write { libc::SYS_pwritev } else { libc::SYS_preadv };
                // More than three would be whatever lies behind.
                let count = if count > 3 { 0x7fff_0000 } else { isize::from(count) };
                let done = self.call(
                    number,
                    [self.file(false), self.at(at), count as usize, small(offset) as usize, 0, 0],
                );
                vec![done, self.hide(at, vectors.len(), put)]
            }
            Op::Message { ref from, ref into, count, control, at } => {
                self.pass_on(from, into, count, control, at)
            }
            Op::Resize { pages } => {
                let length = usize::from(pages) * PAGE % (FILE + PAGE);
                vec![self.call(libc::SYS_ftruncate, [self.file(false), length, 0, 0, 0, 0])]
            }
            Op::Punch { place, length } => {
                let (at, length) = (place.offset(), length.from(place.offset()));
                vec![self.call(libc::SYS_fallocate, [self.file(false), 3, at, length, 0, 0])]
            }
        }
    }

    /// Where addresses were stored, which differ, comes something that does not.
    fn hide(&self, at: Place, length: usize, answer: Answer) -> Answer {
        let _ = self.put(self.at(at), &mut vec![0x11; length]);
        answer
    }

    fn pass_on(
        &self,
        from: &[Part; 2],
        into: &[Part; 2],
        count: u8,
        control: Option<Part>,
        at: Place,
    ) -> Vec<Answer> {
        let count = usize::from(count % 4);
        let control = control
            .map_or((0, 0), |part| (self.at(part.place), part.length.from(part.place.offset())));
        let mut answers = Vec::new();
        for (parts, number, socket) in [(from, libc::SYS_sendmsg, 0), (into, libc::SYS_recvmsg, 1)]
        {
            let mut vectors = self.vectors(parts);
            let at_vectors = self.at(at);
            let put = self.put(at_vectors, &mut vectors);
            if put == Ok(vectors.len() as i64) {
                // SAFETY: all zero is a message without anything.
                let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
                message.msg_iov = std::ptr::with_exposed_provenance_mut(at_vectors);
                message.msg_iovlen = if count == 3 { usize::MAX } else { count };
                message.msg_control = std::ptr::with_exposed_provenance_mut(control.0);
                message.msg_controllen = control.1;
                answers.push(self.call(
                    number,
                    [
                        self.sockets[socket] as usize,
                        (&raw mut message).expose_provenance(),
                        0,
                        0,
                        0,
                        0,
                    ],
                ));
            }
            answers.push(self.hide(at, vectors.len(), put));
        }
        answers
    }

    /// Of many pages a byte, and how each page of the file begins.
    pub fn contents(&self) -> (Vec<Result<u8, i32>>, Vec<u8>) {
        let all =
            (0..ARENA / PAGE).filter(|page| page % 512 < 16 || page % 512 > 500 || page % 37 == 0);
        let memory = all.map(|page| self.load(self.arena + page * PAGE + 3)).collect();
        let mut file = Vec::new();
        for page in 0..FILE / PAGE + 1 {
            let mut bytes = [0; 16];
            let read = self.files[0].read_at(&mut bytes, (page * PAGE) as u64);
            file.extend_from_slice(&bytes[..read.expect("it can be read")]);
        }
        (memory, file)
    }
}

/// What a file may become as long as.
fn small(offset: Offset) -> i64 {
    match offset {
        Offset::In(place) => place.offset() as i64,
        other => other.number(),
    }
}

impl Drop for Side {
    fn drop(&mut self) {
        self.call(libc::SYS_munmap, [self.whole, ARENA + 2 * GUARD, 0, 0, 0, 0])
            .expect("it was mapped");
        for socket in self.sockets {
            self.call(libc::SYS_close, [socket as usize, 0, 0, 0, 0, 0]).expect("it was open");
        }
    }
}
