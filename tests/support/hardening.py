"""What Debian's kernels defend themselves with, and why specialised kernels have each of it or do without.

Options by name, without CONFIG_. Debian's own configuration is what the list is held against: of its options, those
that OF_INTEREST finds are told of here, one by one.
"""

from __future__ import annotations

import re

OF_INTEREST = re.compile(
    r"ERRAT|WORKAROUND|MITIGAT|RETPOLINE|RETHUNK|^CPU_.*_ENTRY$|SRSO|SLS$|TABLE_ISOLATION|UNMAP_KERNEL|STACKPROTECTOR|HARDENED"
    r"|FORTIFY|RANDOMIZE|FREELIST|SHUFFLE|INIT_ON_|INIT_STACK|STRICT_|RODATA|VMAP_STACK|_E?PAN$|E0PD|PTR_AUTH|_BTI"
    r"|DATA_CORRUPTION|DEBUG_LIST|STACK_END|SECCOMP_FILTER$|DMESG_RESTRICT|UNPRIV|UMIP|VSYSCALL_NONE|DEBUG_WX|_MTE$|PROTECTION_KEYS"
)
NOT_OF_INTEREST = re.compile(r"^(CC|ARCH|HAVE|GCC|GENERIC)_|_HAS_|_HAVE_|IOMMU|ACPI|^XEN|^SECURITY_SEL")

COMMON = {
    "BUG_ON_DATA_CORRUPTION": "a list that was written over ends the machine",
    "CPU_MITIGATIONS": "without it the architecture's own are off by default",
    "DEBUG_LIST": "lists are checked as they change",
    "FORTIFY_SOURCE": "copies and strings whose size the compiler knows stay within it",
    "HARDENED_USERCOPY": "copies from and to programs stay within one object",
    "INIT_ON_ALLOC_DEFAULT_ON": "memory is handed out zeroed",
    "INIT_STACK_ALL_ZERO": "variables on the stack begin as zero",
    "RANDOMIZE_BASE": "the kernel's place differs from boot to boot",
    "RANDOMIZE_KSTACK_OFFSET": "the stack's depth differs from call to call",
    "RANDOMIZE_KSTACK_OFFSET_DEFAULT": "and without being asked for",
    "SCHED_STACK_END_CHECK": "a stack that was overrun ends the machine",
    "SECCOMP_FILTER": "programs may give up system calls",
    "SECURITY_DMESG_RESTRICT": "messages, with addresses in them, are for root",
    "SHUFFLE_PAGE_ALLOCATOR": "the order of free pages cannot be guessed",
    "SLAB_FREELIST_HARDENED": "pointers among free objects are hidden and checked",
    "SLAB_FREELIST_RANDOM": "the order of free objects cannot be guessed",
    "STACKPROTECTOR": "a written-over return address is seen",
    "STACKPROTECTOR_STRONG": "in all functions that have something to overrun",
    "STRICT_KERNEL_RWX": "what is code cannot be written, and what is data cannot be run",
    "VMAP_STACK": "stacks end at pages that are not there",
}
OWN = {
    "amd64": {
        "CPU_IBPB_ENTRY": "retbleed, of AMD",
        "CPU_IBRS_ENTRY": "retbleed, of Intel",
        "CPU_SRSO": "return addresses of AMD's Zen",
        "CPU_UNRET_ENTRY": "retbleed, of AMD",
        "LEGACY_VSYSCALL_NONE": "no code at an address that is always the same",
        "MITIGATION_ITS": "indirect targets, of Intel",
        "MITIGATION_RFDS": "register files, of Intel",
        "MITIGATION_SPECTRE_BHI": "branch history, of Intel",
        "MITIGATION_TSA": "transient scheduling, of AMD",
        "PAGE_TABLE_ISOLATION": "meltdown",
        "RANDOMIZE_MEMORY": "the places of all memory differ from boot to boot",
        "RETHUNK": "what fixes of returns are built on",
        "RETPOLINE": "Spectre 2",
        "SLS": "speculation past returns and jumps",
        "X86_UMIP": "programs cannot read where the kernel's tables are",
    },
    "arm64": {
        "ARM64_BTI": "jumps of programs lead to where jumps may lead",
        "ARM64_E0PD": "programs cannot time accesses to the kernel's half",
        "ARM64_EPAN": "as PAN, for what may be run but not read",
        "ARM64_MTE": "programs may have their memory tagged",
        "ARM64_PAN": "the kernel touches programs' memory only where it means to",
        "ARM64_PTR_AUTH": "return addresses of programs are signed",
        "ARM64_PTR_AUTH_KERNEL": "and the kernel's own",
        "MITIGATE_SPECTRE_BRANCH_HISTORY": "Spectre-BHB",
        "RODATA_FULL_DEFAULT_ENABLED": "other names of read-only memory are read-only too",
        "STACKPROTECTOR_PER_TASK": "each task has its own canary",
        "UNMAP_KERNEL_AT_EL0": "meltdown, and KASLR that timing does not undo",
    },
}
PROCESSORS = {
    "amd64": set[str](),
    "arm64": {
        "AMPERE_ERRATUM_AC03_CPU_38",
        *(
            f"ARM64_ERRATUM_{number}"
            for number in (
                *("819472", "824069", "826319", "827319", "832075", "843419", "858921", "1024718", "1165522"),
                *("1286807", "1319367", "1463225", "1508412", "1530923", "1542419", "2051678", "2054223", "2067961"),
                *("2077057", "2441007", "2441009", "2658417", "2966298", "3194386", "4118414"),
            )
        ),
        "ARM64_WORKAROUND_CLEAN_CACHE",
        "ARM64_WORKAROUND_REPEAT_TLBI",
        "ARM64_WORKAROUND_SPECULATIVE_AT",
        "ARM64_WORKAROUND_SPECULATIVE_UNPRIV_LOAD",
        "ARM64_WORKAROUND_TSB_FLUSH_FAILURE",
        "ARM_ARCH_TIMER_OOL_WORKAROUND",
        *(f"CAVIUM_ERRATUM_{number}" for number in ("22375", "23154", "27456", "30115")),
        "CAVIUM_TX2_ERRATUM_219",
        "FSL_ERRATUM_A008585",
        "FUJITSU_ERRATUM_010001",
        "HISILICON_ERRATUM_161010101",
        "HISILICON_ERRATUM_161600802",
        "NVIDIA_CARMEL_CNP_ERRATUM",
        *(f"QCOM_FALKOR_ERRATUM_{number}" for number in ("1003", "1009", "E1041")),
        "QCOM_QDF2400_ERRATUM_0065",
    },
}
"""Faults of processors that are worked around: one reason for all."""

BROUGHT = {
    "amd64": {"DEBUG_LIST", "INIT_STACK_ALL_ZERO"},
    "arm64": {
        *("CPU_MITIGATIONS", "DEBUG_LIST", "INIT_STACK_ALL_ZERO", "STACKPROTECTOR_PER_TASK"),
        *("ARM64_WORKAROUND_CLEAN_CACHE", "ARM64_WORKAROUND_REPEAT_TLBI", "ARM64_WORKAROUND_TSB_FLUSH_FAILURE"),
        *("ARM64_WORKAROUND_SPECULATIVE_AT", "ARM64_WORKAROUND_SPECULATIVE_UNPRIV_LOAD"),
        "ARM_ARCH_TIMER_OOL_WORKAROUND",
    },
}
"""Of these, what need not be asked for: other options or the compiler bring it."""

_NO_COMPAT = "only of 32-bit programs, which do not run"
_NO_TRACE = "only of a trace buffer, which there is no driver for"
_NO_COUNTERS = "only of activity monitors, which are not read"
_NO_MODULES = "there are no modules"
_NO_DEVMEM = "there is no /dev/mem"
_COMMON_WITHOUT = {
    "BPF_UNPRIV_DEFAULT_OFF": "without the set bpf there is no BPF; it is in the set",
    "DEBUG_WX": "looks at every page at boot for what STRICT_KERNEL_RWX sees to",
    "IO_STRICT_DEVMEM": _NO_DEVMEM,
    "RESET_ATTACK_MITIGATION": "memory after a cold reset is the host's to clear",
    "STRICT_DEVMEM": _NO_DEVMEM,
    "STRICT_MODULE_RWX": _NO_MODULES,
}
WITHOUT = {
    "amd64": {
        **_COMMON_WITHOUT,
        "MITIGATION_VMSCAPE": "only of hosts of virtual machines",
        "X86_INTEL_MEMORY_PROTECTION_KEYS": "for programs that ask for them; they must do without on most processors",
    },
    "arm64": {
        **_COMMON_WITHOUT,
        **dict.fromkeys((f"ARM64_ERRATUM_{number}" for number in ("845719", "1418040", "1742098")), _NO_COMPAT),
        **dict.fromkeys(
            (
                *(f"ARM64_ERRATUM_{n}" for n in ("1902691", "2038923", "2064142", "2119858", "2139208")),
                *(f"ARM64_ERRATUM_{n}" for n in ("2224489", "2253138")),
                "ARM64_WORKAROUND_TRBE_OVERWRITE_FILL_MODE",
                "ARM64_WORKAROUND_TRBE_WRITE_OUT_OF_RANGE",
            ),
            _NO_TRACE,
        ),
        **dict.fromkeys(
            ("ARM64_ERRATUM_2457168", "ARM64_ERRATUM_3821522", "ARM64_WORKAROUND_BROKEN_AMU_CONSTCNT"), _NO_COUNTERS
        ),
        "ARM64_ERRATUM_834220": "only of hosts of virtual machines",
        "CAVIUM_ERRATUM_23144": "only of machines with several nodes of memory",
        "RANDOMIZE_MODULE_REGION_FULL": _NO_MODULES,
    },
}
"""Of Debian's, by architecture."""


def wanted(architecture: str) -> set[str]:
    return {*COMMON, *OWN[architecture], *PROCESSORS[architecture]}


def on(configuration: str) -> set[str]:
    """Options that are built in by a `.config`."""
    return set(re.findall(r"^CONFIG_(\w+)=y$", configuration, re.MULTILINE))


def of_interest(configuration: str) -> set[str]:
    return {name for name in on(configuration) if OF_INTEREST.search(name) and not NOT_OF_INTEREST.search(name)}
