"""A hostile image in each isolation: what it tries, what becomes of it, and that host and neighbours stay whole."""

from __future__ import annotations

import secrets
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.guests import compiled
from support.leftovers import leftovers_after
from support.whit import Whit, free_port

from whit.base.settings import Settings
from whit.model.service import Isolation
from whit.runtime.exceptions import excepted

pytestmark = [pytest.mark.machine, pytest.mark.network, pytest.mark.slow, pytest.mark.timeout(300)]

KINDS: tuple[Isolation, ...] = ("container", "sandbox", "microvm")
PROCESSES = 64
LOG_LIMIT = 50 << 20
"""Bytes that an instance's log may take on disk, old parts included."""

APP = """
name: siege
services:
  neighbour:
    build: {{parts: [debian:busybox-static, ./site]}}
    command: [busybox, httpd, -f, -p, "80", -h, /srv]
    stop_signal: SIGKILL
    ports: ["{port}:80"]
"""
MEAN = """
  {kind}:
    isolation: {kind}
    build: {{parts: [./attack]}}
    command: [/hostile]
    cap_add: [NET_RAW]
    pids_limit: {processes}
    stop_signal: SIGKILL
    mem_limit: 192m
    restart: always
    volumes: ["kept:/data", "above:/above", "below:/above/x"]
"""
VOLUMES = "volumes: {kept: , above: , below: }\n"
SECRET = "a secret of the host"

HOST_FILES = [
    Path("/proc/sys/kernel/core_pattern"),
    Path("/proc/sys/vm/overcommit_memory"),
    Path("/proc/sys/kernel/hostname"),
    Path("/sys/kernel/mm/transparent_hugepage/enabled"),
]
"""What the image writes to, as it is on the host."""

OWN_KERNEL = ("sandbox", "microvm")
"""What these can change of a kernel is their own: it is looked at on the host, not in the answer."""
OWN_DEVICES = {"sandbox": {"/dev/fuse", "/dev/net/tun"}}
"""gVisor makes these itself, and nothing of the machine is behind them."""
OWN_CALLS = {"unshare-user", "unshare-net", "keyctl"}
"""What an own kernel may be asked for (whit.runtime.exceptions: commands-filter, own-filter)."""


@pytest.fixture(scope="module")
def outside() -> Iterator[Path]:
    """Where the links lead, if they are followed on the host. Not below /tmp, which is memory in an instance."""
    with tempfile.TemporaryDirectory(prefix="whit-outside-", dir="/var/lib") as directory:
        yield Path(directory)


@pytest.fixture(scope="module")
def siege(tmp_path_factory: pytest.TempPathFactory, outside: Path) -> Iterator[Whit]:
    directory = tmp_path_factory.mktemp("siege")
    port = free_port()
    mean = (MEAN.format(kind=kind, processes=PROCESSES) for kind in KINDS)
    (directory / "whit.yaml").write_text(APP.format(port=port) + "".join(mean) + VOLUMES)
    (directory / "site/srv").mkdir(parents=True)
    (directory / "site/srv/index.html").write_text("whole\n")
    (directory / "attack").mkdir()
    compiled(Path(__file__).parent / "hostile.c", directory / "attack/hostile").chmod(0o4755)
    settings = Settings(id=f"t{secrets.token_hex(3)}", state_root=directory / "state")
    lay_links(directory / "attack", outside, settings)
    whit = Whit(settings, {"PORT": str(port)})
    try:
        whit("up", str(directory), timeout=600)
        yield whit
    finally:
        whit("down", "siege", check=False)
        whit.clean()
    assert not (left := leftovers_after(settings)), left


def lay_links(image: Path, outside: Path, settings: Settings) -> None:
    """Wherever Whit itself reads, writes and mounts in an image or a volume, a link leads out of it: to files of the
    host, and over the programs that QEMU's container runs."""
    for place in (outside / "data", image / "etc", image / "above/x"):
        place.mkdir(parents=True)
    for name in ("hosts", "secret"):
        (outside / name).write_text(f"{SECRET}\n")
    (outside / "passwd").write_text("intruder:x:0:0::/:/hostile\n")
    for name in ("hosts", "passwd"):
        (image / "etc" / name).symlink_to(outside / name)
    (image / "data").symlink_to(outside / "data")
    (settings.volumes_dir / "siege/above").mkdir(parents=True)
    (settings.volumes_dir / "siege/above/x").symlink_to("/usr")


@pytest.fixture(autouse=True)
def whole(siege: Whit) -> Iterator[None]:
    """After each attack the host is as it was, and the neighbour answers."""
    before = [path.read_text() for path in HOST_FILES]
    yield
    assert [path.read_text() for path in HOST_FILES] == before
    with urllib.request.urlopen(f"http://127.0.0.1:{siege.environment['PORT']}/", timeout=30) as reply:
        assert reply.read() == b"whole\n"


def attack(siege: Whit, kind: Isolation, *words: str, user: str = "0") -> dict[str, str]:
    """What each thing that was tried ended with."""
    done = siege("exec", "-u", user, kind, "/hostile", *words, check=False, timeout=400)
    return dict(line.split(" ", 1) for line in done.stdout.splitlines() if " " in line)


def seen(siege: Whit, service: str) -> dict[str, Any]:
    (found,) = [one for one in siege.json("ps", "siege") if one["service"] == service]
    return dict(found)


def until(is_so: Callable[[], bool], seconds: float) -> bool:
    end = time.monotonic() + seconds
    while not is_so():
        if time.monotonic() > end:
            return False
        time.sleep(0.2)
    return True


@pytest.mark.parametrize("kind", KINDS)
def test_a_setuid_program_gains_nothing(siege: Whit, kind: Isolation) -> None:
    assert attack(siege, kind, "identity", user="65534") == {"euid": "65534", "no_new_privs": "1"}


@pytest.mark.parametrize("kind", KINDS)
def test_devices(siege: Whit, kind: Isolation) -> None:
    tried = attack(siege, kind, "devices")
    assert len(tried) == 11
    assert {what for what, result in tried.items() if result == "done"} <= OWN_DEVICES.get(kind, set())


@pytest.mark.parametrize("kind", KINDS)
def test_links_out_of_the_root_lead_nowhere(siege: Whit, outside: Path, kind: Isolation) -> None:
    """Neither those of the image and of a volume, which Whit comes by, nor ways that the program tries."""
    tried = attack(siege, kind, "links", str(outside / "secret"))
    assert len(tried) >= 10
    assert not [what for what, result in tried.items() if SECRET in result or "intruder" in result]
    assert tried["/etc/hosts"].startswith("read:127.0.0.1"), "the instance's own, wherever its image has led it"
    assert {tried["/data/written"], tried["/above/written"]} == {"done"}
    found = sorted(str(path.relative_to(outside)) for path in outside.rglob("*"))
    assert found == ["data", "hosts", "passwd", "secret"], "what was written is in the volumes"
    assert str(outside) not in Path("/proc/self/mountinfo").read_text()
    assert (siege.settings.volumes_dir / "siege/kept/written").exists()
    assert siege("exec", "-u", "intruder", kind, "/hostile", "identity", check=False).returncode != 0


@pytest.mark.parametrize("kind", KINDS)
def test_raw_sockets(siege: Whit, kind: Isolation) -> None:
    """Who was given them may have them; what is forged with them stays inside."""
    (address,) = [one for one in seen(siege, "neighbour")["addresses"] if ":" not in one]
    tried = attack(siege, kind, "raw", "10.255.255.253", address)
    assert tried["raw-socket"] == "done"
    flows = siege.lines("flows")
    assert not [flow for flow in flows if flow["verdict"] == "allow" and flow["source"]["address"] == "10.255.255.253"]


@pytest.mark.parametrize("kind", KINDS)
def test_pokes_at_the_kernel(siege: Whit, kind: Isolation) -> None:
    tried = attack(siege, kind, "pokes")
    assert len(tried) == 12
    if kind not in OWN_KERNEL:
        assert [what for what, result in tried.items() if result == "done"] == []


@pytest.mark.parametrize("kind", KINDS)
def test_system_calls(siege: Whit, kind: Isolation) -> None:
    tried = attack(siege, kind, "calls")
    assert len(tried) == 13
    assert {what for what, result in tried.items() if result == "done"} <= (OWN_CALLS if kind in OWN_KERNEL else set())


@pytest.mark.parametrize("kind", KINDS)
def test_a_fork_bomb_meets_its_limit(siege: Whit, kind: Isolation) -> None:
    tried = attack(siege, kind, "forks")
    if excepted(kind, "processes-limit"):
        assert until(lambda: seen(siege, kind)["state"] == "running", 120), "the sandbox ended, and is there again"
        return
    assert tried["stopped"] == "by EAGAIN"
    assert int(tried["processes"]) <= PROCESSES


def available() -> int:
    """KiB of the machine's memory."""
    return int(Path("/proc/meminfo").read_text().split("MemAvailable:")[1].split()[0])


@pytest.mark.parametrize("kind", KINDS)
def test_a_memory_bomb_takes_what_it_may_and_no_more(siege: Whit, kind: Isolation) -> None:
    before = available()
    done = siege("exec", kind, "/hostile", "memory", check=False, timeout=400)
    assert "all of it" not in done.stdout
    assert done.returncode != 0
    # A guest of a test beside this one may have as much for a while.
    assert until(lambda: before - available() < 1 << 20, 150), "a GiB is gone"
    assert until(lambda: seen(siege, kind)["state"] == "running", 120), "it is started again if that ended it"


@pytest.mark.parametrize("kind", KINDS)
def test_frames_of_somebody_else_stay_inside(siege: Whit, kind: Isolation) -> None:
    neighbour, own = seen(siege, "neighbour"), seen(siege, kind)
    (address,) = [one for one in neighbour["addresses"] if ":" not in one]
    entry = neighbours(address)
    tried = attack(siege, kind, "spoof", address, "10.255.255.254") | attack(siege, kind, "arp", address)
    assert neighbours(address) == entry
    if kind == "sandbox":
        assert "done" not in tried.values(), "gVisor sends no frames of others"
        return
    assert tried == dict.fromkeys(("spoofed-address", "spoofed-mac", "arp-request", "arp-reply"), "done")
    drops = [
        flow
        for flow in siege.lines("flows", "--verdict", "deny")
        if flow["reason_text"].startswith("source address or MAC") and flow["source"]["name"] in ("siege/" + kind, "")
    ]
    assert drops, own


def neighbours(address: str) -> str:
    """The host's entry for the address, without what ages."""
    found = subprocess.run(["ip", "-4", "neigh", "show", address], capture_output=True, text=True, check=True).stdout
    return " ".join(word for word in found.split() if word not in ("REACHABLE", "STALE", "DELAY", "PROBE"))


@pytest.mark.parametrize("kind", KINDS)
def test_a_flood_of_the_log_is_bounded(siege: Whit, kind: Isolation) -> None:
    """100 MB: the file on disk stays within its limit, and the last line is there."""
    attack(siege, kind, "flood")
    assert until(lambda: "flooded" in siege("logs", "--tail", "5", kind).stdout, 200)
    files = [path for path in siege.settings.logs_dir.rglob("*") if path.is_file()]
    own = [path for path in files if f"siege-{kind}-1" in str(path)]
    assert own
    assert sum(path.stat().st_size for path in own) <= LOG_LIMIT
