//! Mappings that are kept to be given up, when the kernel has no more: of `vm.max_map_count` it needs some to put even one mapping in the place of many, and what
//! cannot be put there then could be put there never.

use crate::platform::lock;
use crate::sys::errno::Errno;
use crate::sys::mem;
use crate::window::Scratch;
use std::sync::Mutex;

/// A mapping that is put inside of another cuts that into three.
const MAPPINGS: usize = 8;

/// The spare mappings of a service.
pub(crate) struct Spare(Mutex<Option<Scratch>>);

impl Spare {
    pub(crate) fn new() -> Self {
        Self(Mutex::new(make().ok()))
    }

    /// Makes `attempt`, once more with the spare mappings given up if there are no more to be had. Afterwards there are some again, if the kernel has them.
    pub(crate) fn lend(&self, mut attempt: impl FnMut() -> Result<(), Errno>) -> Result<(), Errno> {
        match attempt() {
            Err(Errno::NOMEM) => {}
            answer => return answer,
        }
        let mut spare = lock(&self.0);
        drop(spare.take());
        let answer = attempt();
        *spare = make().ok();
        answer
    }
}

/// Pages with other rights than their neighbours: each is a mapping of its own.
fn make() -> Result<Scratch, Errno> {
    let made = Scratch::new(0, MAPPINGS * mem::PAGE)?;
    for page in (0..MAPPINGS).step_by(2) {
        // SAFETY: the page is our own, and nobody refers to it.
        unsafe { mem::mprotect(made.address + page * mem::PAGE, mem::PAGE, mem::PROT_READ) }?;
    }
    Ok(made)
}
