//! Control messages, as a program gives them to sendmsg(2) and gets them from recvmsg(2).

use libc::c_int;

/// The descriptors in a buffer of control messages.
pub(crate) fn descriptors_in(control: &[u8]) -> Vec<c_int> {
    const HEADER_BYTES: usize = size_of::<libc::cmsghdr>();
    const WORD_BYTES: usize = size_of::<usize>();
    let mut found = Vec::new();
    let mut rest = control;
    while let Some((header, _)) = rest.split_at_checked(HEADER_BYTES) {
        let number = |at: usize| {
            c_int::from_ne_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]])
        };
        let length = header[..WORD_BYTES].try_into().map_or(0, usize::from_ne_bytes);
        if length < HEADER_BYTES {
            break;
        }
        let (level, kind) = (number(WORD_BYTES), number(WORD_BYTES + size_of::<c_int>()));
        if level == libc::SOL_SOCKET && kind == libc::SCM_RIGHTS {
            let data = &rest[HEADER_BYTES..length.min(rest.len())];
            found.extend(
                data.chunks_exact(4).filter_map(|fd| fd.try_into().ok()).map(c_int::from_ne_bytes),
            );
        }
        let next = length.checked_next_multiple_of(WORD_BYTES).unwrap_or(usize::MAX);
        rest = rest.get(next..).unwrap_or_default();
    }
    found
}

#[cfg(test)]
mod tests {
    use super::descriptors_in;

    fn control_message(level: i32, kind: i32, data: &[i32]) -> Vec<u8> {
        let length = 16 + 4 * data.len();
        let mut bytes = length.to_ne_bytes().to_vec();
        bytes.extend(level.to_ne_bytes());
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(data.iter().flat_map(|number| number.to_ne_bytes()));
        bytes.resize(length.next_multiple_of(8), 0);
        bytes
    }

    #[test]
    fn descriptors_of_all_rights_messages_are_found() {
        let mut bytes = control_message(libc::SOL_SOCKET, libc::SCM_RIGHTS, &[5, 6, 7]);
        bytes.extend(control_message(libc::SOL_SOCKET, libc::SCM_CREDENTIALS, &[1, 2, 3]));
        bytes.extend(control_message(libc::SOL_SOCKET, libc::SCM_RIGHTS, &[8]));
        assert_eq!(descriptors_in(&bytes), [5, 6, 7, 8]);
    }

    #[test]
    fn messages_that_lie_about_their_length_end_the_search() {
        let mut bytes = control_message(libc::SOL_SOCKET, libc::SCM_RIGHTS, &[5]);
        bytes[0] = 200;
        assert_eq!(descriptors_in(&bytes), [5, 0], "cut at the end of the buffer");
        bytes[0] = 3;
        assert!(descriptors_in(&bytes).is_empty(), "shorter than its own header");
        bytes[..8].copy_from_slice(&usize::MAX.to_ne_bytes());
        assert_eq!(descriptors_in(&bytes), [5, 0], "no overflow");
        assert!(descriptors_in(&bytes[..10]).is_empty());
    }
}
