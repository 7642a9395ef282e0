//! Which of the kernel's ways to be told of faults is used.

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
}

/// The environment variable that names the one to use.
const VARIABLE: &str = "UDAX_ENGINE";

impl Engine {
    /// Every one, best first.
    pub const ALL: [Self; 2] = [Self::Userfaultfd, Self::UserfaultfdUser];

    /// Its name in `UDAX_ENGINE`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Userfaultfd => "userfaultfd",
            Self::UserfaultfdUser => "userfaultfd-user",
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
        let [best, other] = Engine::ALL;
        write!(f, "{VARIABLE} is {:?}; there are {best} and {other}", self.name)
    }
}

impl core::error::Error for UnknownEngine {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_engine_is_found_by_its_name_and_nothing_else_is() {
        for engine in Engine::ALL {
            assert_eq!(Engine::named(OsStr::new(engine.name())), Ok(engine));
        }
        let unknown = Engine::named(OsStr::new("uffd")).map_err(|error| error.to_string());
        let says = "UDAX_ENGINE is \"uffd\"; there are userfaultfd and userfaultfd-user";
        assert_eq!(unknown, Err(says.to_owned()));
    }
}
