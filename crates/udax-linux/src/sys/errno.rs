//! Linux error numbers.

use core::fmt;
use linux_raw_sys::errno as raw;

/// A Linux error number, shown in the system's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Errno(pub i32);

macro_rules! names {
    ($($name:ident = $number:ident, $what:literal;)*) => {
        impl Errno {
            $(
                #[doc = $what]
                #[expect(clippy::cast_possible_wrap, reason = "error numbers are below 4096")]
                pub const $name: Self = Self(raw::$number as i32);
            )*
        }
    };
}

names! {
    PERM = EPERM, "Not permitted.";
    NOENT = ENOENT, "No such file.";
    SRCH = ESRCH, "No such process or thread.";
    NOTTY = ENOTTY, "No such request.";
    INTR = EINTR, "Interrupted by a signal.";
    IO = EIO, "Input/output error.";
    NXIO = ENXIO, "Nothing there.";
    BADF = EBADF, "No such descriptor, or not open for that.";
    AGAIN = EAGAIN, "Not now.";
    NOMEM = ENOMEM, "No memory, or too many mappings.";
    ACCES = EACCES, "Permission denied.";
    FAULT = EFAULT, "Bad address.";
    EXIST = EEXIST, "It is there already.";
    INVAL = EINVAL, "Invalid argument.";
    NOSPC = ENOSPC, "No space.";
    DQUOT = EDQUOT, "The quota is used up.";
    NOSYS = ENOSYS, "The kernel has no such call.";
    OPNOTSUPP = EOPNOTSUPP, "Not supported there.";
}

impl Errno {
    /// The same failure in the engine's words.
    #[must_use]
    pub const fn io_error(self) -> udax_core::IoError {
        udax_core::IoError::from_errno(self.0)
    }
}

impl fmt::Display for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", std::io::Error::from_raw_os_error(self.0))
    }
}

impl core::error::Error for Errno {}

impl From<Errno> for std::io::Error {
    fn from(errno: Errno) -> Self {
        Self::from_raw_os_error(errno.0)
    }
}
