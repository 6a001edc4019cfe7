"""The system calls that an instance may make: everything not listed fails with EPERM.

The list follows the default profile of Docker and containerd (moby/profiles seccomp): calls are allowed by name, some
with conditions on their arguments, some only with a capability. Only the native architecture is covered, so 32-bit
programs do not run: compiling the filter for three architectures costs 16 ms at each start.
"""

from __future__ import annotations

import platform
from collections.abc import Collection
from typing import Any

from whit.base.errors import Unavailable

ARCHITECTURES = {"x86_64": "SCMP_ARCH_X86_64", "aarch64": "SCMP_ARCH_AARCH64"}
EPERM, ENOSYS = 1, 38
AF_VSOCK = 40

# CLONE_NEWNS | NEWCGROUP | NEWUTS | NEWIPC | NEWUSER | NEWPID | NEWNET
NAMESPACE_FLAGS = 0x7E020000

_ALWAYS = (
    # files and directories
    "access chdir chmod chown chown32 close close_range copy_file_range creat dup dup2 dup3 faccessat faccessat2 "
    "fadvise64 fadvise64_64 fallocate fchdir fchmod fchmodat fchmodat2 fchown fchown32 fchownat fcntl fcntl64 "
    "fdatasync fgetxattr flistxattr flock fremovexattr fsetxattr fstat fstat64 fstatat64 fstatfs fstatfs64 fsync "
    "ftruncate ftruncate64 futimesat getcwd getdents getdents64 getxattr getxattrat lchown lchown32 lgetxattr link "
    "linkat listxattr listxattrat llistxattr lremovexattr lseek lsetxattr lstat lstat64 _llseek mkdir mkdirat mknod "
    "mknodat newfstatat open openat openat2 pread64 preadv preadv2 pwrite64 pwritev pwritev2 read readahead readlink "
    "readlinkat readv removexattr removexattrat rename renameat renameat2 rmdir sendfile sendfile64 setxattr "
    "setxattrat splice stat stat64 statfs statfs64 statx symlink symlinkat sync sync_file_range syncfs tee truncate "
    "truncate64 umask unlink unlinkat utime utimensat utimensat_time64 utimes vmsplice write writev cachestat "
    "name_to_handle_at "
    # events and waiting
    "epoll_create epoll_create1 epoll_ctl epoll_ctl_old epoll_pwait epoll_pwait2 epoll_wait epoll_wait_old eventfd "
    "eventfd2 inotify_add_watch inotify_init inotify_init1 inotify_rm_watch fanotify_mark pipe pipe2 poll ppoll "
    "ppoll_time64 pselect6 pselect6_time64 select _newselect signalfd signalfd4 io_cancel io_destroy io_getevents "
    "io_pgetevents io_pgetevents_time64 io_setup io_submit "
    # memory
    "brk madvise membarrier memfd_create memfd_secret mincore mlock mlock2 mlockall mmap mmap2 "
    "mprotect mremap mseal msync munlock munlockall munmap pkey_alloc pkey_free pkey_mprotect process_mrelease "
    "remap_file_pages map_shadow_stack "
    # processes, signals, users
    "alarm capget capset execve execveat exit exit_group fork futex futex_requeue futex_time64 futex_wait futex_waitv "
    "futex_wake getegid getegid32 geteuid geteuid32 getgid getgid32 getgroups getgroups32 getitimer getpgid getpgrp "
    "getpid getppid getpriority getresgid getresgid32 getresuid getresuid32 getrlimit getrusage getsid gettid getuid "
    "getuid32 get_robust_list get_thread_area kill pause pidfd_open pidfd_send_signal prctl prlimit64 restart_syscall "
    "rseq rt_sigaction rt_sigpending rt_sigprocmask rt_sigqueueinfo rt_sigreturn rt_sigsuspend rt_sigtimedwait "
    "rt_sigtimedwait_time64 rt_tgsigqueueinfo sched_getaffinity sched_getattr sched_getparam sched_get_priority_max "
    "sched_get_priority_min sched_getscheduler sched_rr_get_interval sched_rr_get_interval_time64 sched_setaffinity "
    "sched_setattr sched_setparam sched_setscheduler sched_yield setfsgid setfsgid32 setfsuid setfsuid32 setgid "
    "setgid32 setgroups setgroups32 setitimer setpgid setpriority setregid setregid32 setresgid setresgid32 "
    "setresuid setresuid32 setreuid setreuid32 setrlimit set_robust_list setsid set_thread_area set_tid_address "
    "setuid setuid32 sigaltstack sigreturn tgkill tkill ugetrlimit uname vfork wait4 waitid waitpid "
    # time
    "adjtimex clock_adjtime clock_adjtime64 clock_getres clock_getres_time64 clock_gettime clock_gettime64 "
    "clock_nanosleep clock_nanosleep_time64 gettimeofday nanosleep time timer_create timer_delete timer_getoverrun "
    "timer_gettime timer_gettime64 timer_settime timer_settime64 timerfd_create timerfd_gettime timerfd_gettime64 "
    "timerfd_settime timerfd_settime64 times "
    # sockets
    "accept accept4 bind connect getpeername getsockname getsockopt listen recv recvfrom recvmmsg recvmmsg_time64 "
    "recvmsg send sendmmsg sendmsg sendto setsockopt shutdown socketcall socketpair "
    # inter-process communication, and the rest
    "ipc mq_getsetattr mq_notify mq_open mq_timedreceive mq_timedreceive_time64 mq_timedsend mq_timedsend_time64 "
    "mq_unlink msgctl msgget msgrcv msgsnd semctl semget semop semtimedop semtimedop_time64 shmat shmctl shmdt shmget "
    "getcpu getrandom ioctl ioprio_get ioprio_set landlock_add_rule landlock_create_ruleset landlock_restrict_self "
    "lsm_get_self_attr lsm_list_modules lsm_set_self_attr seccomp sysinfo ptrace process_vm_readv process_vm_writev "
    "uretprobe"
)
ALWAYS = tuple(_ALWAYS.split())

NATIVE = {
    "x86_64": ("arch_prctl", "modify_ldt"),
    "aarch64": ("sync_file_range2", "arm_fadvise64_64", "arm_sync_file_range", "breakpoint", "cacheflush", "set_tls"),
}

WITH_CAPABILITY: dict[str, tuple[str, ...]] = {
    "CAP_DAC_READ_SEARCH": ("open_by_handle_at",),
    "CAP_SYS_ADMIN": (
        *("bpf", "clone", "clone3", "fanotify_init", "fsconfig", "fsmount", "fsopen", "fspick", "listmount"),
        *("lookup_dcookie", "mount", "mount_setattr", "move_mount", "open_tree", "perf_event_open", "quotactl"),
        *("quotactl_fd", "setdomainname", "sethostname", "setns", "statmount", "syslog", "umount", "umount2"),
        "unshare",
    ),
    "CAP_SYS_BOOT": ("reboot",),
    "CAP_SYS_CHROOT": ("chroot",),
    "CAP_SYS_MODULE": ("delete_module", "init_module", "finit_module"),
    "CAP_SYS_PACCT": ("acct",),
    "CAP_SYS_PTRACE": ("kcmp", "pidfd_getfd", "process_madvise"),
    "CAP_SYS_RAWIO": ("iopl", "ioperm"),
    "CAP_SYS_TIME": ("settimeofday", "stime", "clock_settime", "clock_settime64"),
    "CAP_SYS_TTY_CONFIG": ("vhangup",),
    "CAP_SYS_NICE": ("get_mempolicy", "mbind", "set_mempolicy", "set_mempolicy_home_node"),
    "CAP_SYSLOG": ("syslog",),
    "CAP_BPF": ("bpf",),
    "CAP_PERFMON": ("perf_event_open",),
}

# PER_LINUX, PER_LINUX32, UNAME26 with and without PER_LINUX32, and the query.
PERSONALITIES = (0x0, 0x0008, 0x20000, 0x20008, 0xFFFFFFFF)


def profile(capabilities: Collection[str], machine: str = platform.machine(), *, errnos: bool = True) -> dict[str, Any]:
    """The `linux.seccomp` object of runtime-spec for a process with these capabilities. Without `errnos` it is for a
    runtime that takes no notice of errnoRet.

    Raises:
        Unavailable: the machine's architecture has no profile.
    """
    if machine not in ARCHITECTURES:
        raise Unavailable(f"there is no seccomp profile for {machine}", hint="x86_64 and aarch64 are supported")
    gained = {call for capability in capabilities for call in WITH_CAPABILITY.get(capability, ())}
    rules = [_allow(sorted({*ALWAYS, *NATIVE[machine], *gained})), *_conditional()]
    if "clone" not in gained:
        rules += _clone_without_namespaces(errnos=errnos)
    return {
        "defaultAction": "SCMP_ACT_ERRNO",
        "defaultErrnoRet": EPERM,
        "architectures": [ARCHITECTURES[machine]],
        "syscalls": rules,
    }


def _conditional() -> list[dict[str, Any]]:
    return [
        *(_allow(["personality"], _when(0, value, "SCMP_CMP_EQ")) for value in PERSONALITIES),
        # A vsock reaches the hypervisor past every network policy.
        _allow(["socket"], _when(0, AF_VSOCK, "SCMP_CMP_NE")),
    ]


def _clone_without_namespaces(*, errnos: bool) -> list[dict[str, Any]]:
    """New processes and threads, but no new namespaces. The flags of clone3 lie in memory where a filter cannot look:
    ENOSYS makes libc use clone instead; after EPERM it starts no thread at all. Where no other errno than EPERM can be
    had, the call is left to a tracer: if there is none, which is the rule, it fails with ENOSYS (seccomp(2))."""
    absent = {"action": "SCMP_ACT_ERRNO", "errnoRet": ENOSYS} if errnos else {"action": "SCMP_ACT_TRACE"}
    return [
        _allow(["clone"], {**_when(0, NAMESPACE_FLAGS, "SCMP_CMP_MASKED_EQ"), "valueTwo": 0}),
        {"names": ["clone3"], **absent},
    ]


def _allow(names: list[str], *conditions: dict[str, Any]) -> dict[str, Any]:
    rule: dict[str, Any] = {"names": names, "action": "SCMP_ACT_ALLOW"}
    return {**rule, "args": list(conditions)} if conditions else rule


def _when(index: int, value: int, comparison: str) -> dict[str, Any]:
    return {"index": index, "value": value, "op": comparison}
