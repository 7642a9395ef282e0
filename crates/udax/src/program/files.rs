//! Calls that change a file without a store: write and its family, truncation, allocation.

use super::Program;
use crate::calls::{FileCall, WriteAt};

impl Program {
    /// Before the kernel's own write of `length` bytes through `fd`: nobody sees zeros where it writes, from here on.
    pub fn writing(&self, fd: i32, at: WriteAt, length: u64) -> FileCall {
        self.runtime.writing(fd, at, length)
    }

    /// Before the kernel's own change of a file's length or allocation through `fd`: the file is plain from here on, until it is mapped
    /// again.
    pub fn changing_layout(&self, fd: i32) -> FileCall {
        self.runtime.changing_layout(fd)
    }

    /// Another process has, or may have, this very descriptor: the file is plain, and stays so.
    pub fn descriptor_shared(&self, fd: i32) {
        self.runtime.descriptor_shared(fd);
    }
}
