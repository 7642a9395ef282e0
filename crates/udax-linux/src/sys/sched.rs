//! On which processor a thread runs, and how soon.

use super::errno::Errno;
use super::fd;
use super::raw::syscall;
use linux_raw_sys::general as k;

/// A set of processors, as large as the kernel's own may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Processors([u64; 16]);

impl Processors {
    /// One alone.
    pub(crate) const fn one(number: usize) -> Option<Self> {
        let mut set = [0; 16];
        if number >= 64 * set.len() {
            return None;
        }
        set[number / 64] = 1 << (number % 64);
        Some(Self(set))
    }

    /// Those that `thread` (0: this one) may run on.
    pub(crate) fn of(thread: i32) -> Result<Self, Errno> {
        let mut set = [0_u64; 16];
        let arguments = [thread as usize, size_of_val(&set), set.as_mut_ptr() as usize, 0, 0, 0];
        // SAFETY: the pointer is to a set of the length that is told, borrowed for the call.
        unsafe { syscall(k::__NR_sched_getaffinity, arguments) }?;
        Ok(Self(set))
    }

    /// Keeps `thread` (0: this one) to these.
    pub(crate) fn keep(&self, thread: i32) -> Result<(), Errno> {
        let arguments = [thread as usize, size_of_val(&self.0), self.0.as_ptr() as usize, 0, 0, 0];
        // SAFETY: the pointer is to a set of the length that is told, borrowed for the call.
        unsafe { syscall(k::__NR_sched_setaffinity, arguments) }.map(drop)
    }
}

/// The processor that a thread of this process ran on last, if it has to share it with ordinary threads: beside one of a real-time policy they get no turn.
pub(crate) fn shared_processor_of(thread: i32) -> Option<usize> {
    let mut path = *b"/proc/self/task/0000000000/stat\0";
    let mut rest = thread;
    for digit in path[16..26].iter_mut().rev() {
        *digit = b'0' + u8::try_from(rest % 10).ok()?;
        rest /= 10;
    }
    // The kernel takes no number that begins with 0.
    let first = path[16..26].iter().position(|&digit| digit != b'0')?;
    path.copy_within(16 + first.., 16);
    let name = core::ffi::CStr::from_bytes_until_nul(&path).ok()?;
    let stat = fd::open(name, k::O_RDONLY | k::O_CLOEXEC).ok()?;
    let mut text = [0; 512];
    let length = fd::read(stat, &mut text);
    fd::close(stat);
    shared_processor_in(&text[..length.ok()?])
}

/// The 39th field, unless the 40th tells of a real-time priority; counted from the end of the second, which may hold anything.
fn shared_processor_in(stat: &[u8]) -> Option<usize> {
    let behind = stat.iter().rposition(|&byte| byte == b')')? + 1;
    let text = core::str::from_utf8(&stat[behind..]).ok()?;
    let mut fields = text.split_ascii_whitespace().skip(36);
    let processor = fields.next()?.parse().ok()?;
    let (priority, policy) = (fields.next()?, fields.next()?);
    (priority == "0" && policy != SCHED_DEADLINE).then_some(processor)
}

/// For the fuzzer.
#[cfg(fuzzing)]
pub fn any_stat(stat: &[u8]) -> Option<usize> {
    shared_processor_in(stat)
}

const SCHED_DEADLINE: &str = "6";

/// This thread gets short slices, and so its turn soon after it was woken, if it has an ordinary policy. Kernels before 6.12 take no notice.
pub(crate) fn short_slices() {
    const BYTES: usize = 48;
    const SLICE_NANOS: u64 = 100_000;
    // `struct sched_attr`: size and policy, flags, nice and priority, runtime, deadline, period.
    let mut attributes = [0_u64; BYTES / 8];
    let arguments = [0, attributes.as_mut_ptr() as usize, BYTES, 0, 0, 0];
    // SAFETY: the pointer is to as many bytes as are told, borrowed for the call.
    let got = unsafe { syscall(k::__NR_sched_getattr, arguments) };
    let is_ordinary = attributes[0] >> 32 == 0;
    if got.is_err() || !is_ordinary {
        return;
    }
    attributes[3] = SLICE_NANOS;
    let arguments = [0, attributes.as_ptr() as usize, 0, 0, 0, 0];
    // SAFETY: the pointer is to a structure whose first word tells its length, borrowed for the call.
    let _ = unsafe { syscall(k::__NR_sched_setattr, arguments) };
}

/// The processor that this thread runs on.
#[cfg(test)]
pub(crate) fn this_processor() -> Option<usize> {
    let mut number = 0_u32;
    let number_at: *mut u32 = &raw mut number;
    let arguments = [number_at as usize, 0, 0, 0, 0, 0];
    // SAFETY: the pointer is to a number of the type the call names, borrowed for the call.
    unsafe { syscall(k::__NR_getcpu, arguments) }.ok()?;
    usize::try_from(number).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::signal;

    fn stat(processor: u32, priority: u32, policy: u32) -> Vec<u8> {
        let mut stat = b"7 (a ) b) S".to_vec();
        let fields = (4..=52).map(|field| match field {
            39 => processor,
            40 => priority,
            41 => policy,
            other => other,
        });
        fields.for_each(|field| stat.extend_from_slice(format!(" {field}").as_bytes()));
        stat
    }

    #[test]
    fn the_processor_is_found_behind_a_name_with_spaces_and_brackets() {
        assert_eq!(shared_processor_in(&stat(5, 0, 0)), Some(5));
        assert_eq!(shared_processor_in(b"7 (a"), None);
    }

    #[test]
    fn nobody_follows_a_thread_that_leaves_others_no_turn() {
        assert_eq!(shared_processor_in(&stat(5, 0, 3)), Some(5), "SCHED_BATCH");
        assert_eq!(shared_processor_in(&stat(5, 1, 1)), None, "SCHED_FIFO");
        assert_eq!(shared_processor_in(&stat(5, 99, 2)), None, "SCHED_RR");
        assert_eq!(shared_processor_in(&stat(5, 0, 6)), None, "SCHED_DEADLINE");
    }

    #[test]
    fn a_thread_that_is_kept_to_a_processor_is_found_there() {
        let before = Processors::of(0).expect("they can be asked for");
        let here = this_processor().expect("it can be asked for");
        Processors::one(here).expect("a small number").keep(0).expect("it runs there");
        assert_eq!(shared_processor_of(signal::thread_id()), Some(here));
        before.keep(0).expect("it ran there");
        assert_eq!(Processors::of(0), Ok(before));
    }
}
