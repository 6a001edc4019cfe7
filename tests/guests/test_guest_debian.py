"""A stock Debian 12: systemd, pure cgroup v2, Linux 6.1, crun. Apps come back after a reboot; the suites pass there.

Where KVM does not run guests everything there takes ten times as long and more, so the suites are a sample.
"""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable, Iterator
from xml.etree import ElementTree

import pytest
from support.debian_guest import DebianGuest
from support.guests import HAS_QEMU

pytestmark = [
    pytest.mark.full,
    pytest.mark.network,
    pytest.mark.slow,
    pytest.mark.timeout(3600),
    pytest.mark.skipif(not HAS_QEMU, reason="qemu-system-x86 is not installed"),
]

Record = Callable[[str, object], None]

SLOWNESS = 20
"""Translated, on two cores that others use as well."""
CONTAINERS = "tests/contract -k 'crun and not kills and not survival'"
SANDBOXES = "tests/contract -k 'runsc and (status_and_output or killed_for_memory or exit or mounts or pausing)'"
SUITES = {
    "runtime": "tests/runtime",
    "containers": CONTAINERS,
    "sandboxes": SANDBOXES,
    "mesh": "tests/mesh/test_two_instances.py",
}


@pytest.fixture(scope="module")
def guest(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DebianGuest]:
    with DebianGuest(tmp_path_factory.mktemp("debian")) as machine:
        yield machine


def answers(guest: DebianGuest, patience: float = 600) -> str:
    """What the example says at its published port."""
    until = time.monotonic() + patience
    while "Hello" not in (said := guest.run("curl -s -m 10 http://127.0.0.1:8080/", check=False)):
        assert time.monotonic() < until, guest.run("./whit ps; journalctl -b -u 'whitd@*' --no-pager", check=False)
        time.sleep(2)
    return said


def test_it_is_stock(guest: DebianGuest) -> None:
    assert guest.run("cat /proc/1/comm").strip() == "systemd"
    assert guest.run("uname -r").startswith("6.1.")
    assert guest.run("stat -f -c %T /sys/fs/cgroup").strip() == "cgroup2fs"
    features = {line.split("  ")[0]: line for line in guest.run("./whit doctor").splitlines()}
    assert "crun" in features["OCI runtime"]
    for name in ("cgroups", "memory limits", "freezing", "gVisor (isolation: sandbox)", "clsact filters"):
        assert " works " in features[name], features[name]


def test_systemd_runs_the_agent_and_a_reboot_brings_apps_back(guest: DebianGuest) -> None:
    guest.run("./whit up examples/hello", timeout=900)
    assert guest.run("systemctl is-active whitd@whit; systemctl is-enabled whitd@whit").split() == ["active", "enabled"]
    assert "Hello" in answers(guest)
    before = guest.run("cat /proc/sys/kernel/random/boot_id")
    guest.reboot()
    assert guest.run("cat /proc/sys/kernel/random/boot_id") != before
    assert "Hello" in answers(guest)
    said = guest.run("journalctl -b -1 -u whitd@whit --no-pager")
    assert "the machine goes down" in said
    assert "Remove(name='hello-hello-1'" in said
    assert not guest.run("systemctl --failed --no-legend").strip()


def test_a_stopped_agent_leaves_its_instances_alone(guest: DebianGuest) -> None:
    pid = "pgrep -f 'busybox httpd'"
    before = guest.run(pid)
    guest.run("systemctl stop whitd@whit", timeout=120)
    assert "Hello" in answers(guest)
    assert guest.run(pid) == before
    guest.run("systemctl start whitd@whit; ./whit down hello && ./whit doctor --clean --yes", timeout=900)
    assert guest.run("find /sys/fs/cgroup -path '*whit*' -type d").strip() == ""


@pytest.mark.parametrize("suite", SUITES)
def test_suites(guest: DebianGuest, suite: str, record_number: Record) -> None:
    began = time.monotonic()
    command = f"PYTHONPATH=src WHIT_TEST_SLOWNESS={SLOWNESS} WHIT_RUNSC=/usr/bin/runsc .venv/bin/python -m pytest -q"
    said = guest.run(f"{command} --junit-xml=/root/{suite}.xml {SUITES[suite]}", timeout=3000, check=False)
    counts = ElementTree.fromstring(guest.run(f"cat /root/{shlex.quote(suite)}.xml")).find("testsuite")
    assert counts is not None
    passed = int(counts.get("tests", 0)) - sum(int(counts.get(key, 0)) for key in ("failures", "errors", "skipped"))
    text = f"{passed} passed, {counts.get('skipped')} skipped, {time.monotonic() - began:.0f} s"
    record_number(f"Debian 12 guest: {suite}", text)
    assert passed, said[-3000:]
    assert (counts.get("failures"), counts.get("errors")) == ("0", "0"), said[-12000:]
