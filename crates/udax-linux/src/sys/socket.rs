//! Datagrams that carry descriptors, between threads of one process that have descriptor tables of their own.

use super::errno::Errno;
use super::raw::syscall;
use super::{bits, fd, to_int};
use linux_raw_sys::general as k;
use std::os::fd::RawFd;

/// The address of a socket that has no file, as long as the kernel makes them: its family, a zero, and five digits.
pub(crate) type Name = [u8; 8];

/// Space for what travels beside the bytes: a descriptor and a sender's credentials, each with its head.
const BESIDE_BYTES: usize = 128;
/// `AF_UNIX`, as a name begins with it.
const FAMILY: libc::sa_family_t = 1;
const HEAD_BYTES: usize = size_of::<libc::cmsghdr>();

/// Aligned as the heads have to be.
#[repr(C, align(8))]
struct Beside([u8; BESIDE_BYTES]);

fn new() -> Result<RawFd, Errno> {
    let kind = libc::SOCK_DGRAM | libc::SOCK_CLOEXEC;
    let arguments = [libc::AF_UNIX as usize, kind as usize, 0, 0, 0, 0];
    // SAFETY: no argument is a pointer; a new descriptor is all that comes of it.
    unsafe { syscall(k::__NR_socket, arguments) }.map(to_int)
}

/// A socket that takes datagrams by a name of the kernel's choice, and is told who sent them.
pub(crate) fn listen() -> Result<(RawFd, Name), Errno> {
    let socket = new()?;
    name(socket).map(|name| (socket, name)).inspect_err(|_| fd::close(socket))
}

fn name(socket: RawFd) -> Result<Name, Errno> {
    let on = 1_u32;
    let on_at: *const u32 = &raw const on;
    let (level, option) = (libc::SOL_SOCKET as usize, libc::SO_PASSCRED as usize);
    let arguments = [socket as usize, level, option, on_at.addr(), size_of::<u32>(), 0];
    // SAFETY: the pointer is to a number of the size told, borrowed for the call.
    unsafe { syscall(k::__NR_setsockopt, arguments) }?;
    let mut name: Name = [0; 8];
    name[..2].copy_from_slice(&FAMILY.to_ne_bytes());
    // With nothing but the family the kernel chooses.
    let arguments = [socket as usize, name.as_ptr().addr(), 2, 0, 0, 0];
    // SAFETY: the pointer is to as many bytes, borrowed for the call.
    unsafe { syscall(k::__NR_bind, arguments) }?;
    let mut length = 8_u32;
    let length_at: *mut u32 = &raw mut length;
    let arguments = [socket as usize, name.as_mut_ptr().addr(), length_at.addr(), 0, 0, 0];
    // SAFETY: both pointers are to what the call fills in, which is as long as it is told.
    unsafe { syscall(k::__NR_getsockname, arguments) }?;
    if length == 8 { Ok(name) } else { Err(Errno::INVAL) }
}

/// Sends `descriptor` of this thread's table, with a number, to the socket of that name. Does not wait.
pub(crate) fn send(name: &Name, number: u64, descriptor: RawFd) -> Result<(), Errno> {
    let socket = new()?;
    let mut beside = Beside([0; BESIDE_BYTES]);
    let length = HEAD_BYTES + size_of::<RawFd>();
    let head = [length as u64, head_of(libc::SOL_SOCKET, libc::SCM_RIGHTS)];
    beside.0[..8].copy_from_slice(&head[0].to_ne_bytes());
    beside.0[8..16].copy_from_slice(&head[1].to_ne_bytes());
    beside.0[HEAD_BYTES..length].copy_from_slice(&descriptor.to_ne_bytes());
    let mut bytes = number.to_ne_bytes();
    let mut part = libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() };
    let mut message = empty();
    message.msg_name = name.as_ptr().cast_mut().cast();
    message.msg_namelen = 8;
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    message.msg_control = beside.0.as_mut_ptr().cast();
    message.msg_controllen = length.next_multiple_of(8);
    let message_at: *const libc::msghdr = &raw const message;
    let flags = bits((libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL).cast_unsigned());
    // SAFETY: everything that the message points to is borrowed for the call, with its true length.
    let sent =
        unsafe { syscall(k::__NR_sendmsg, [socket as usize, message_at.addr(), flags, 0, 0, 0]) };
    fd::close(socket);
    sent.map(drop)
}

/// The level and the kind of what lies behind a head, as they lie in memory.
fn head_of(level: i32, kind: i32) -> u64 {
    let [a, b, c, d] = level.to_ne_bytes();
    let [e, f, g, h] = kind.to_ne_bytes();
    u64::from_ne_bytes([a, b, c, d, e, f, g, h])
}

fn empty() -> libc::msghdr {
    // SAFETY: all zero is a message without anything.
    unsafe { std::mem::zeroed() }
}

/// What a datagram held.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Received {
    pub(crate) number: u64,
    /// Of this thread's table; whoever takes it closes it.
    pub(crate) descriptor: Option<RawFd>,
    /// The process that sent it, by the kernel's word.
    pub(crate) process: i32,
}

/// Takes the next datagram; [`Errno::AGAIN`] if there is none.
pub(crate) fn receive(socket: RawFd) -> Result<Received, Errno> {
    let mut beside = Beside([0; BESIDE_BYTES]);
    let mut bytes = [0_u8; 8];
    let mut part = libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() };
    let mut message = empty();
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    message.msg_control = beside.0.as_mut_ptr().cast();
    message.msg_controllen = BESIDE_BYTES;
    let message_at: *mut libc::msghdr = &raw mut message;
    let flags = bits((libc::MSG_DONTWAIT | libc::MSG_CMSG_CLOEXEC).cast_unsigned());
    // SAFETY: everything that the message points to is borrowed for the call, with its true length.
    unsafe { syscall(k::__NR_recvmsg, [socket as usize, message_at.addr(), flags, 0, 0, 0]) }?;
    let length = message.msg_controllen.min(BESIDE_BYTES);
    let mut received = Received { number: u64::from_ne_bytes(bytes), ..Received::default() };
    // One is what we send; what a stranger sends beside it is closed at once.
    parse(&beside.0[..length], &mut received, &mut fd::close);
    Ok(received)
}

/// What lies beside the bytes of a datagram. Of several descriptors the last is kept, and the others are `surplus`.
fn parse(mut rest: &[u8], received: &mut Received, surplus: &mut impl FnMut(RawFd)) {
    let word = |bytes: &[u8], at: usize| {
        let found = bytes.get(at..at + 4).and_then(|bytes| bytes.try_into().ok());
        found.map_or(0, i32::from_ne_bytes)
    };
    while rest.len() >= HEAD_BYTES {
        let length = usize::try_from(word(rest, 0)).unwrap_or(0);
        if length < HEAD_BYTES || length > rest.len() {
            return;
        }
        let (level, kind) = (word(rest, 8), word(rest, 12));
        match (level, kind) {
            (libc::SOL_SOCKET, libc::SCM_RIGHTS) => {
                for number in rest[HEAD_BYTES..length].chunks_exact(size_of::<RawFd>()) {
                    if let Some(before) = received.descriptor.replace(word(number, 0)) {
                        surplus(before);
                    }
                }
            }
            (libc::SOL_SOCKET, libc::SCM_CREDENTIALS) => received.process = word(rest, HEAD_BYTES),
            _ => {}
        }
        rest = rest.get(length.next_multiple_of(8)..).unwrap_or(&[]);
    }
}

/// For the fuzzer: the descriptors that lie beside the bytes of a datagram, in order, and who sent them.
#[cfg(fuzzing)]
pub fn any_beside(beside: &[u8]) -> (Vec<RawFd>, i32) {
    let (mut received, mut all) = (Received::default(), Vec::new());
    parse(beside, &mut received, &mut |descriptor| all.push(descriptor));
    all.extend(received.descriptor);
    (all, received.process)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_shorter_than_a_descriptor_is_none() {
        let mut beside = (HEAD_BYTES + 6).to_ne_bytes().to_vec();
        beside.extend(head_of(libc::SOL_SOCKET, libc::SCM_RIGHTS).to_ne_bytes());
        beside.extend([7, 0, 0, 0, 9, 9, 9, 9]);
        let (mut received, mut surplus) = (Received::default(), Vec::new());
        parse(&beside, &mut received, &mut |descriptor| surplus.push(descriptor));
        assert_eq!((received.descriptor, surplus), (Some(7), vec![]));
    }

    #[test]
    fn a_descriptor_arrives_with_its_number_and_its_sender() {
        let (socket, name) = listen().expect("a socket");
        assert_eq!(receive(socket), Err(Errno::AGAIN), "nothing was sent");
        let file = fd::open(c"/dev/zero", k::O_RDONLY).expect("opened");
        send(&name, 77, file).expect("sent");
        let received = receive(socket).expect("it is there");
        assert_eq!((received.number, received.process), (77, super::super::signal::process_id()));
        let taken = received.descriptor.expect("it came along");
        let inode = |fd| fd::status(fd).map(|status| (status.stx_ino, status.stx_rdev_minor));
        assert_eq!(inode(taken), inode(file));
        [socket, file, taken].into_iter().for_each(fd::close);
    }
}
