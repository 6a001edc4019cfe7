"""System calls that an application was seen to make, and the kernels that have them."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from whit.base.errors import InputError
from whit.base.settings import Settings
from whit.image.sources import calls, specialised
from whit.image.store.images import ImageStore
from whit.model.build import BuildSpec, CheckSpec, DirectoryPart
from whit.model.lock import Lock
from whit.model.progress import Report

SOURCE = r"""
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

int main(void) {
  if (fork() == 0) { syscall(SYS_landlock_create_ruleset, 0, 0, 1); _exit(0); }
  socket(AF_VSOCK, SOCK_STREAM, 0);
  return epoll_create1(0) < 0;
}
"""
SEEN = ("epoll_create1", "landlock_create_ruleset", "socket of family 40")


@pytest.mark.parametrize("architecture", ["amd64", "arm64"])
def test_what_any_program_calls_is_in_every_kernel(architecture: str) -> None:
    configuration = specialised.configuration(architecture)
    everyday = "EPOLL EVENTFD FUTEX FILE_LOCKING INOTIFY_USER IO_URING MEMBARRIER POSIX_TIMERS RSEQ SECCOMP TIMERFD"
    asked = [call for option in everyday.split() for call in calls.OPTIONS[option].split()]
    assert calls.lacking([*asked, "socket of family 10"], configuration) == {}


def test_calls_choose_the_sets_that_bring_them() -> None:
    assert specialised.sets_for(["epoll_create1"], "amd64") == ["disk", "net"]
    assert specialised.sets_for(["bpf"], "amd64") == ["bpf", "disk", "net"]
    assert specialised.sets_for(["keyctl", "landlock_create_ruleset"], "arm64", ["net"]) == ["containers", "net"]


def test_a_call_that_nothing_brings_is_refused_with_its_option() -> None:
    seen = {"a": ["bpf"], "b": ["landlock_create_ruleset"]}
    with pytest.raises(InputError, match=r"landlock_create_ruleset \(CONFIG_SECURITY_LANDLOCK\)") as error:
        calls.require(seen, specialised.configuration("amd64", ["bpf"]))
    assert error.value.code == "kernel-lacks-call"
    assert error.value.message.endswith(" of b"), "and nothing of a, whose call is there"
    assert "bpf" not in str(error.value)
    assert "kernel: debian" in error.value.hint


@pytest.mark.root
async def test_what_checks_call_is_seen_kept_and_locked(settings: Settings, tmp_path: Path, report: Report) -> None:
    root = tmp_path / "root"
    root.mkdir()
    subprocess.run(["cc", "-static", "-x", "c", "-", "-o", root / "tool"], input=SOURCE.encode(), check=True)
    spec = BuildSpec(parts=(DirectoryPart(path=root, link="whole"),), check=(CheckSpec(run=("/tool",)),))
    store = ImageStore(settings)
    await store.build("tool", spec, report, observe=True)
    seen = store.bill("tool").calls
    assert set(SEEN) <= set(seen)
    assert "signalfd4" not in seen, "the checks' own process watches signals, and is not the application"
    lock = Lock.parse(store.observed("tool").encode())
    await store.build("tool", spec, report, lock=lock)
    assert store.bill("tool").calls == seen
    assert calls.lacking(seen, specialised.configuration("amd64")) == {
        "landlock_create_ruleset": "SECURITY_LANDLOCK",
        "socket of family 40": "VSOCKETS",
    }
