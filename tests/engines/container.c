/* Runs a program as a container's usual seccomp profile would: the calls below fail with EPERM, in it and in what it starts.
 *
 *     container PROGRAM [ARGUMENT]...
 */
#define _GNU_SOURCE
#include <errno.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

static const unsigned refused[] = {
    SYS_userfaultfd, SYS_unshare,  SYS_setns,     SYS_pidfd_getfd, SYS_kcmp,    SYS_process_madvise, SYS_mount,
    SYS_umount2,     SYS_bpf,      SYS_add_key,   SYS_keyctl,      SYS_request_key, SYS_perf_event_open,
    SYS_open_by_handle_at, SYS_io_uring_setup,
};
#define REFUSED (sizeof refused / sizeof *refused)

int main(int count, char **arguments) {
    if (count < 2) {
        fprintf(stderr, "usage: container PROGRAM [ARGUMENT]...\n");
        return 2;
    }
    struct sock_filter rules[2 * REFUSED + 2];
    size_t length = 0;
    rules[length++] = (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr));
    for (size_t call = 0; call < REFUSED; call++) {
        rules[length++] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, refused[call], 0, 1);
        rules[length++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM);
    }
    rules[length++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
    struct sock_fprog program = {.len = (unsigned short)length, .filter = rules};
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) || prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program)) {
        fprintf(stderr, "container: no seccomp filter: %s\n", strerror(errno));
        return 2;
    }
    execvp(arguments[1], arguments + 1);
    fprintf(stderr, "container: %s: %s\n", arguments[1], strerror(errno));
    return 2;
}
