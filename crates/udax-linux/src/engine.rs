//! Which of the kernel's ways to be told of faults is used.

use crate::sys::{fd, uffd};
use std::ffi::{OsStr, OsString};
use std::fmt;

/// How faults come to be served.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Engine {
    /// A userfaultfd that tells of every fault, also of those that the kernel takes for a system call.
    Userfaultfd,
    /// A userfaultfd that tells of faults in user mode only, as anybody may have it. A system call that is given memory in which a hole is shown would
    /// fail with `EFAULT`, so the memory has to be prepared for it before.
    UserfaultfdUser,
    /// No userfaultfd: whoever meets a fault finds itself in a handler of SIGSEGV, and waits there. System calls as with
    /// [`UserfaultfdUser`](Self::UserfaultfdUser).
    Signals,
}

/// The environment variable that names the one to use.
const VARIABLE: &str = "UDAX_ENGINE";

impl Engine {
    /// Every one, best first.
    pub const ALL: [Self; 3] = [Self::Userfaultfd, Self::UserfaultfdUser, Self::Signals];

    /// Its name in `UDAX_ENGINE`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Userfaultfd => "userfaultfd",
            Self::UserfaultfdUser => "userfaultfd-user",
            Self::Signals => "signals",
        }
    }

    /// The one that the environment variable `UDAX_ENGINE` asks for, if it is set and not empty.
    ///
    /// # Errors
    /// What it is set to, if there is no such engine.
    pub fn asked() -> Result<Option<Self>, UnknownEngine> {
        std::env::var_os(VARIABLE)
            .filter(|name| !name.is_empty())
            .map(|name| Self::named(&name))
            .transpose()
    }

    fn named(name: &OsStr) -> Result<Self, UnknownEngine> {
        let found = Self::ALL.into_iter().find(|engine| name == engine.name());
        found.ok_or_else(|| UnknownEngine { name: name.to_owned() })
    }

    /// The one that is asked for, or else the best that this process may have now. Opens a descriptor for a moment.
    #[must_use]
    pub fn expected() -> Self {
        if let Ok(Some(asked)) = Self::asked() {
            return asked;
        }
        match uffd::open(None) {
            Ok((number, source)) => {
                fd::close(number);
                source.engine()
            }
            Err(_) => Self::Signals,
        }
    }

    /// Whether system calls may be given memory in which holes are shown, and the kernel waits for its own faults to be served.
    #[must_use]
    pub const fn serves_the_kernel(self) -> bool {
        matches!(self, Self::Userfaultfd)
    }
}

impl fmt::Display for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// `UDAX_ENGINE` names no engine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnknownEngine {
    name: OsString,
}

impl fmt::Display for UnknownEngine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [best, other, last] = Engine::ALL;
        write!(f, "{VARIABLE} is {:?}; there are {best}, {other} and {last}", self.name)
    }
}

impl core::error::Error for UnknownEngine {}

/// For the fuzzer.
#[cfg(fuzzing)]
pub fn named(name: &OsStr) -> Option<Engine> {
    Engine::named(name).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_engine_is_found_by_its_name_and_nothing_else_is() {
        for engine in Engine::ALL {
            assert_eq!(Engine::named(OsStr::new(engine.name())), Ok(engine));
        }
        let unknown = Engine::named(OsStr::new("uffd")).map_err(|error| error.to_string());
        let says = "UDAX_ENGINE is \"uffd\"; there are userfaultfd, userfaultfd-user and signals";
        assert_eq!(unknown, Err(says.to_owned()));
    }
}
