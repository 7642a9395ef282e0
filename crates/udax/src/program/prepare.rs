//! Memory that the program gives to a system call.

use super::{Access, Prepared, Program};

impl Program {
    /// Whether that much at `address` may have to be prepared for a system call. Some atomic loads, no lock.
    pub fn may_prepare(&self, address: usize, length: usize) -> bool {
        let addresses = address..address.saturating_add(length);
        self.runtime.may_prepare(&addresses)
    }

    /// Whether memory has to be prepared for system calls now. An atomic load or two.
    pub fn prepares(&self) -> bool {
        self.runtime.prepares()
    }

    /// Makes what is served of `length` bytes at `address` ready for a system call that reads it, or writes to it, where the kernel could not wait for a fault
    /// there. To be held over the call. `None` if nothing is served there, or if the kernel needs no help.
    pub fn prepare(&self, address: usize, length: usize, access: Access) -> Option<Prepared<'_>> {
        self.runtime.prepare(address..address.saturating_add(length), access)
    }
}
