"""Calls: which option of Linux brings which system calls, and which of a configuration an application lacks.

From kernel/sys_ni.c and kernel/time/posix-stubs.c of Linux, which list what answers ENOSYS where it is left out, and
the makefiles beside the calls themselves. Of calls that belong together only those stand here that make what the others
take. What depends on arguments is known for the families of sockets alone (net/*/Kconfig).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence

from whit.base.errors import InputError

OPTIONS = {
    "ADVISE_SYSCALLS": "fadvise64 process_madvise",
    "AIO": "io_setup",
    "ARCH_HAS_PKEYS": "pkey_alloc",
    "BLOCK": "ioprio_get ioprio_set",
    "BPF_SYSCALL": "bpf",
    "BSD_PROCESS_ACCT": "acct",
    "CROSS_MEMORY_ATTACH": "process_vm_readv process_vm_writev",
    "EPOLL": "epoll_create epoll_create1",
    "EVENTFD": "eventfd eventfd2",
    "FANOTIFY": "fanotify_init",
    "FHANDLE": "name_to_handle_at open_by_handle_at",
    "FILE_LOCKING": "flock",
    "FUTEX": "futex_waitv set_robust_list",
    "INOTIFY_USER": "inotify_init inotify_init1",
    "IO_URING": "io_uring_setup",
    "KCMP": "kcmp",
    "KEXEC": "kexec_load",
    "KEXEC_FILE": "kexec_file_load",
    "KEYS": "add_key keyctl request_key",
    "MEMBARRIER": "membarrier",
    "MEMFD_CREATE": "memfd_create",
    "MODULES": "delete_module finit_module init_module",
    "MULTIUSER": "capset setfsgid setfsuid setgid setgroups setregid setresgid setresuid setreuid setuid",
    "NUMA": "get_mempolicy mbind migrate_pages move_pages set_mempolicy set_mempolicy_home_node",
    "PERF_EVENTS": "perf_event_open",
    "POSIX_MQUEUE": "mq_open",
    "POSIX_TIMERS": "alarm getitimer setitimer timer_create",
    "PRINTK": "syslog",
    "QUOTACTL": "quotactl quotactl_fd",
    "RSEQ": "rseq",
    "SECCOMP": "seccomp",
    "SECRETMEM": "memfd_secret",
    "SECURITY_LANDLOCK": "landlock_create_ruleset",
    "SIGNALFD": "signalfd signalfd4",
    "SWAP": "swapoff swapon",
    "SYSVIPC": "msgget semget shmget",
    "TIMERFD": "timerfd_create",
    "USERFAULTFD": "userfaultfd",
}
FAMILIES = {
    "UNIX": 1,
    "INET": 2,
    "IPV6": 10,
    "NET_KEY": 15,
    "NET": 16,
    "PACKET": 17,
    "CAN": 29,
    "TIPC": 30,
    "CRYPTO_USER_API": 38,
    "VSOCKETS": 40,
    "AF_KCM": 41,
    "SMC": 43,
    "XDP_SOCKETS": 44,
}
"""Of sockets, by the option that brings them; linux/socket.h."""
_SOCKET = "socket"
_OPTION = {call: option for option, calls in OPTIONS.items() for call in calls.split()}
_OPTION |= {f"{_SOCKET} of family {number}": option for option, number in FAMILIES.items()}

Seen = Mapping[str, Collection[str]]
"""The calls that were seen, by who made them."""

WATCHED = (*(call for calls in OPTIONS.values() for call in calls.split()), _SOCKET)
"""What is worth observing."""


def named(seen: Iterable[tuple[int, int]], names: dict[int, str]) -> tuple[str, ...]:
    """As records name them: calls that were seen by number and first argument."""
    found = ((names[number], argument) for number, argument in seen)
    texts = {f"{name} of family {argument}" if name == _SOCKET else name for name, argument in found}
    return tuple(sorted(texts & _OPTION.keys()))


def lacking(calls: Iterable[str], configuration: str) -> dict[str, str]:
    """The calls, of those that are known, that a kernel of this configuration does not have: with the option."""
    there = set(configuration.splitlines())
    return {one: _OPTION[one] for one in calls if one in _OPTION and f"CONFIG_{_OPTION[one]}=y" not in there}


def require(seen: Seen, configuration: str) -> None:
    """Raises InputError if somebody makes calls that this kernel does not have."""
    said = [
        f"{call} (CONFIG_{option}) of {who}"
        for who, made in seen.items()
        for call, option in sorted(lacking(made, configuration).items())
    ]
    if said:
        hint = "take kernel: debian; or, if the program does without, strike them from calls in whit.lock"
        text = f"no specialised kernel has what was seen: {', '.join(said)}"
        raise InputError(text, hint=hint, code="kernel-lacks-call")


def bringing(calls: Iterable[str], have: str, sets: Sequence[tuple[str, str]]) -> Collection[str]:
    """Which sets, of names with their options, bring what the options that are there do not."""
    missing = lacking(calls, have)
    return [name for name, options in sets if missing.keys() - lacking(missing, options).keys()]
