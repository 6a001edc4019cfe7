"""A stock Debian 12: systemd, pure cgroup v2, Linux 6.1, crun. Apps come back after a reboot; the suites pass there.

Where KVM does not run guests everything there takes ten times as long and more, so the suites are a sample.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
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
PYTEST = f"PYTHONPATH=src WHIT_TEST_SLOWNESS={SLOWNESS} WHIT_RUNSC=/usr/bin/runsc .venv/bin/python -m pytest"
CONTRACT = "tests/contract/test_contract_instances.py tests/contract/test_contract_commands.py"
SUITES = {
    "runtime": "tests/runtime",
    "containers": f"{CONTRACT} -k crun",
    "containers, cut short": "tests/contract/test_contract_survival.py tests/contract/test_contract_kills.py -k crun",
    "sandboxes": f"{CONTRACT} -k runsc",
    "mesh, two instances": "tests/mesh/test_two_instances.py",
    "mesh, services": "tests/mesh/test_service_cases.py tests/mesh/test_mesh_edges.py",
    "mesh, from outside": "tests/mesh/test_endpoints_from_outside.py",
    "mesh, names": "tests/mesh/test_mesh_resolver.py",
    "mesh, explained": "tests/mesh/test_explain_equals_packets.py tests/mesh/test_reach.py",
    "mesh, conformance": "tests/conformance",
    "mesh, bad states and sites": "tests/mesh/test_bad_states.py tests/mesh/test_mesh_site.py",
}
LEFT_OUT = {
    "virtual machines, nine pairs": "QEMU within a guest would be translated twice",
    "shop": "its packages of PyPI cannot be fetched there; examples/hello is brought up, and is back after a reboot",
    "load, many at once, wake-ups": "they are about time, and time is another one where instructions are translated",
    "compiler and parsers": "they ask nothing of the machine; they run where this test runs",
}
"""And why it does not run there."""
PATIENCE = 3600
"""Seconds for one suite."""


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
        assert " works" in features[name], features[name]


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
    pid = "pgrep -f '[b]usybox httpd'"
    before = guest.run(pid)
    guest.run("systemctl stop whitd@whit", timeout=120)
    assert "Hello" in answers(guest)
    assert guest.run(pid) == before
    guest.run("systemctl start whitd@whit; ./whit down hello && ./whit doctor --clean --yes", timeout=900)
    assert guest.run("systemctl is-active whitd@whit", check=False).strip() == "inactive"
    # systemd keeps the slice of a template's units, empty.
    left = guest.run("find /sys/fs/cgroup -path '*whit*' -type d ! -name system-whitd.slice")
    assert left.strip() == ""


@pytest.mark.timeout(PATIENCE + 300)
@pytest.mark.parametrize("suite", SUITES)
def test_suites(guest: DebianGuest, suite: str, record_number: Record) -> None:
    began = time.monotonic()
    words = f"-q --junit-xml=/root/suite.xml {SUITES[suite]}"
    said = guest.run(f"rm -f /root/suite.xml; {PYTEST} {words}", timeout=PATIENCE, check=False)
    verdict = Verdict.read(guest.run("cat /root/suite.xml", check=False), said)
    record_number(f"Debian 12 guest: {suite}", f"{verdict}, {time.monotonic() - began:.0f} s")
    assert verdict.passed, said[-3000:]
    assert not verdict.failed, f"{verdict}\n{said[-12000:]}"


def test_what_is_left_out_is_said(record_number: Record) -> None:
    for what, why in LEFT_OUT.items():
        record_number(f"Debian 12 guest, not run: {what}", why)


@dataclass(frozen=True)
class Verdict:
    """How many tests of a suite went how, and which of them failed."""

    passed: int
    skipped: int
    failed: tuple[str, ...]

    @classmethod
    def read(cls, text: str, said: str) -> Verdict:
        """From JUnit's XML; pytest did not come to its end if there is none."""
        assert text.startswith("<?xml"), said[-6000:]
        cases = ElementTree.fromstring(text).findall(".//testcase")
        bad = [case for case in cases if case.find("failure") is not None or case.find("error") is not None]
        skipped = sum(case.find("skipped") is not None for case in cases)
        return cls(len(cases) - len(bad) - skipped, skipped, tuple(str(case.get("name")) for case in bad))

    def __str__(self) -> str:
        counts = f"{self.passed} passed, {self.skipped} skipped, {len(self.failed)} failed"
        return f"{counts} ({', '.join(self.failed)})" if self.failed else counts
