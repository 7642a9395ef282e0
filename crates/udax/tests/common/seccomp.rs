//! System calls that are refused.

/// Forbids a system call to this thread and those that it starts, as a container does: it fails with EPERM.
#[expect(unsafe_code, reason = "of libc's functions")]
pub(crate) fn forbid(call: libc::c_long) {
    let load_number = 0x20; // BPF_LD | BPF_W | BPF_ABS, of `seccomp_data.nr`
    let jump_if_equal = 0x15; // BPF_JMP | BPF_JEQ | BPF_K
    let answer = 0x06; // BPF_RET | BPF_K
    let rule = |code, jt, jf, k| libc::sock_filter { code, jt, jf, k };
    let call = u32::try_from(call).expect("a number");
    let mut rules = [
        rule(load_number, 0, 0, 0),
        rule(jump_if_equal, 0, 1, call),
        rule(answer, 0, 0, libc::SECCOMP_RET_ERRNO | libc::EPERM.cast_unsigned()),
        rule(answer, 0, 0, libc::SECCOMP_RET_ALLOW),
    ];
    let program = libc::sock_fprog { len: 4, filter: rules.as_mut_ptr() };
    // SAFETY: numbers.
    let given_up = unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) };
    assert_eq!(given_up, 0, "no new privileges");
    let (set, mode) = (libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER);
    // SAFETY: the program is of that many rules, and borrowed for the call.
    let forbidden = unsafe { libc::prctl(set, mode, &raw const program) };
    assert_eq!(forbidden, 0, "seccomp: {}", std::io::Error::last_os_error());
}
