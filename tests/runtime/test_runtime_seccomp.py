from __future__ import annotations

from typing import Any

import pytest

from whit.base.errors import Unavailable
from whit.runtime.bundle import capabilities
from whit.runtime.bundle.seccomp import ALWAYS, profile

NEVER_BY_DEFAULT = (
    "mount umount2 unshare setns bpf clone3 init_module reboot io_uring_setup userfaultfd keyctl kexec_load"
)


def _named(document: dict[str, Any], name: str) -> list[dict[str, Any]]:
    return [rule for rule in document["syscalls"] if name in rule["names"]]


def test_what_is_not_named_is_refused() -> None:
    document = profile(capabilities.DEFAULT, "x86_64")
    assert document["defaultAction"] == "SCMP_ACT_ERRNO"
    assert document["architectures"] == ["SCMP_ARCH_X86_64"]
    for name in NEVER_BY_DEFAULT.split():
        assert all(rule["action"] != "SCMP_ACT_ALLOW" for rule in _named(document, name)), name
    assert len(ALWAYS) == len(set(ALWAYS))


def test_capabilities_open_more() -> None:
    assert not _named(profile(()), "chroot")
    assert _named(profile(("CAP_SYS_CHROOT",)), "chroot")
    document = profile(("CAP_SYS_ADMIN",))
    assert [rule["action"] for rule in _named(document, "clone")] == ["SCMP_ACT_ALLOW"]
    assert "args" not in _named(document, "clone")[0]
    assert _named(document, "mount")


def test_new_processes_but_no_new_namespaces() -> None:
    document = profile(capabilities.DEFAULT)
    [clone] = _named(document, "clone")
    assert clone["args"] == [{"index": 0, "value": 0x7E020000, "valueTwo": 0, "op": "SCMP_CMP_MASKED_EQ"}]
    [clone3] = _named(document, "clone3")
    assert (clone3["action"], clone3["errnoRet"]) == ("SCMP_ACT_ERRNO", 38)


def test_where_a_filter_cannot_name_an_errno() -> None:
    [clone3] = _named(profile(capabilities.DEFAULT, errnos=False), "clone3")
    assert clone3 == {"names": ["clone3"], "action": "SCMP_ACT_TRACE"}


def test_architectures() -> None:
    assert profile((), "aarch64")["architectures"] == ["SCMP_ARCH_AARCH64"]
    with pytest.raises(Unavailable, match="riscv64"):
        profile((), "riscv64")
