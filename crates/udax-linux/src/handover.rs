//! How the service comes by descriptors of the program, whose table is not its own.

use crate::platform::lock;
use crate::sys::errno::Errno;
use crate::sys::{fd, signal, socket};
use std::os::fd::RawFd;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

/// Numbers in the service's table.
pub(crate) struct Handover {
    way: Way,
    /// Held from a sending to its taking, so that what is taken is what was sent.
    one_at_a_time: Mutex<()>,
}

enum Way {
    /// The process, of which pidfd_getfd(2) takes them.
    Process(RawFd),
    /// Where that is forbidden (a container's usual profile): they are sent to this socket, which has a name and no file.
    Socket(RawFd, socket::Name),
}

impl Handover {
    /// The best way that is allowed. In the service's table.
    pub(crate) fn open() -> Result<Self, Errno> {
        let way = match by_process() {
            Ok(process) => Way::Process(process),
            Err(_) => socket::listen().map(|(socket, name)| Way::Socket(socket, name))?,
        };
        Ok(Self { way, one_at_a_time: Mutex::default() })
    }

    /// Hands descriptor `fd` of this thread's table over; `take` runs `with`, which is given its number there, in the service's.
    pub(crate) fn hand<R>(
        &self,
        fd: RawFd,
        take: impl FnOnce(&(dyn Fn() -> Result<RawFd, Errno> + Sync)) -> R,
    ) -> R {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        match &self.way {
            Way::Process(process) => take(&|| fd::fetch(*process, fd)),
            Way::Socket(socket, name) => {
                let _one = lock(&self.one_at_a_time);
                let number = NEXT.fetch_add(1, Ordering::Relaxed);
                let sent = socket::send(name, number, fd);
                take(&|| sent.and_then(|()| receive(*socket, number)))
            }
        }
    }

    /// The process, where descriptors are taken from it.
    pub(crate) const fn process(&self) -> Option<RawFd> {
        match self.way {
            Way::Process(process) => Some(process),
            Way::Socket(..) => None,
        }
    }
}

fn by_process() -> Result<RawFd, Errno> {
    let process = fd::this_process()?;
    // Descriptor 0 is taken as the example; only a program without one may refuse it.
    match fd::fetch(process, 0) {
        Ok(example) => fd::close(example),
        Err(Errno::BADF) => {}
        Err(errno) => {
            fd::close(process);
            return Err(errno);
        }
    }
    Ok(process)
}

/// What was sent as `number` by this process; what strangers have sent is closed.
fn receive(socket: RawFd, number: u64) -> Result<RawFd, Errno> {
    loop {
        let received = socket::receive(socket)?;
        let is_ours = received.process == signal::process_id() && received.number == number;
        match received.descriptor {
            Some(descriptor) if is_ours => return Ok(descriptor),
            Some(other) => fd::close(other),
            None => {}
        }
    }
}
