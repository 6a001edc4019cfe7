"""Declared machines boot: onboot in order, services with readiness and restarts, an end in order, failures told."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path
from subprocess import run
from typing import Any

import pytest
from support.guests import HAS_QEMU, debian_kernel
from support.machines import Guest, booted, busybox_root, linked

from whit.formats.firstboot.userdata import load_first_boot
from whit.image.machines import kernels
from whit.image.machines.link import LinkedMachine
from whit.image.sources import kernel
from whit.model.first_boot import FirstBootSpec, WrittenFile
from whit.tools import qemu

pytestmark = [
    pytest.mark.network,
    pytest.mark.slow,
    pytest.mark.timeout(300),
    pytest.mark.skipif(not HAS_QEMU, reason="qemu-system-x86 is not installed"),
]

KERNEL = 'kernel: {image: debian, cmdline: "console=ttyS0 quiet panic=-1"}\n'
EVERY_STAGE = """
rest: 9100
onboot:
  - {name: first, image: ./box, command: [sh, -c, "echo one; touch /var-of-first"]}
  - {name: second, image: ./box, command: [sh, -c, "test ! -e /var-of-first && echo two"]}
onshutdown:
  - {name: slow, image: ./box, command: [sleep, "100"], timeout: 500ms}
  - {name: bye, image: ./box, command: [echo, goodbye]}
services:
  - name: db
    image: ./box
    command: [sh, -c, "trap 'echo db ends; exit' TERM; sleep 0.3; nc -ll -p 5432 -e cat & while :; do sleep 0.1; done"]
    ready: {tcp: 5432}
  - name: web
    image: ./box
    after: [db]
    command: [sh, -c, "trap 'echo web ends; exit' TERM; echo hi | nc 127.0.0.1 5432; while :; do sleep 0.1; done"]
  - name: loud
    image: ./box
    command: [sh, -c, "seq 1000; exec sleep 100"]
    stop_grace_period: 0s
  - name: flaky
    image: ./box
    command: [sh, -c, "echo again; exit 3"]
  - name: once
    image: ./box
    restart: "no"
    command: [sh, -c, "exit 4"]
  - name: late
    image: ./box
    restart: "no"
    command: [sleep, "100"]
    ready: {path: /run/never, timeout: 700ms}
  - name: asks
    image: ./box
    after: [db]
    restart: "no"
    command:
      - sh
      - -c
      - >-
        for path in status logs/second logs/nobody; do wget -qO- http://127.0.0.1:9100/v1/$path 2>&1; done;
        printf 'POST /v1/status HTTP/1.1\\r\\n\\r\\n' | nc 127.0.0.1 9100;
        for i in 1 2 3 4 5 6 7 8 9; do sleep 1000 | nc 127.0.0.1 9100 >/dev/null & done;
        head -c 4000 /dev/zero | nc 127.0.0.1 9100 >/dev/null;
        wget -qO- http://127.0.0.1:9100/v1/status | grep -c '"up": '; echo has asked; sleep 1000
"""


@pytest.fixture
def place(tmp_path: Path) -> Path:
    busybox_root(tmp_path / "box")
    return tmp_path


async def test_stages_services_and_the_end(place: Path) -> None:
    async with linked(KERNEL + EVERY_STAGE, place) as machine, booted(machine, place) as guest:
        await guest.until(lambda one: one.get("name") == "flaky" and one.get("restarts", 0) >= 2)
        await guest.tell("follow")
        states = await guest.states()
        check_order(guest, states)
        if states["late"]["state"] != "failed":
            await guest.until(lambda one: one.get("name") == "late" and one["event"] == "ended")
            states = await guest.states()
        assert (states["late"]["state"], states["late"]["status"]) == ("failed", 137)
        assert states["late"]["failure"] == "it was not ready after 700 ms"
        if "has asked" not in guest.console:
            await guest.until(lambda one: "has asked" in one.get("line", ""))
        await guest.tell("stop flaky")
        await guest.tell("logs flaky")
        assert "again" in (await guest.event("logs", "flaky"))["lines"]
        await guest.press()
        await guest.event("off")
        await guest.ended()
        console = guest.console
    check_rest(console)
    check_console(console)


def check_order(guest: Guest, states: dict[str, dict[str, Any]]) -> None:
    """One stage after the other, each service in its state."""
    order = [(one["event"], one.get("name")) for one in guest.events]
    assert order.index(("ended", "first")) < order.index(("started", "second"))
    assert order.index(("ended", "second")) < order.index(("started", "db"))
    assert order.index(("ready", "db")) < order.index(("started", "web"))
    assert {name: states[name]["state"] for name in ("first", "db", "web", "once")} == {
        "first": "ended",
        "db": "ready",
        "web": "ready",
        "once": "failed",
    }
    assert states["once"]["status"] == 4


def check_rest(console: str) -> None:
    """What the service `asks` was told over HTTP."""
    told = [line.removeprefix("asks: ") for line in console.splitlines() if line.startswith("asks: ")]
    said = json.loads(told[0])
    assert {one["name"]: one["state"] for one in said["containers"] if one["stage"] == "onboot"} == {
        "first": "ended",
        "second": "ended",
    }
    assert told[1:3] == ["two", "wget: server returned error: HTTP/1.1 404 Not Found"]
    assert told[3] == "HTTP/1.1 405 Method Not Allowed"
    assert told[-2:] == ["1", "has asked"]


def check_console(console: str) -> None:
    """Lines of all, of one that prints much not all, and the end in its order."""
    assert "flaky: again" in console
    assert "loud: 200\n" in console.replace("\r", "")
    assert "loud: 1000\n" not in console.replace("\r", "")
    assert "onshutdown slow failed: it took longer than 500 ms" in console
    words = ["first: one", "second: two", "web: hi", "web ends", "db ends", "bye: goodbye", "power off"]
    places = [console.index(word) for word in words]
    assert places == sorted(places), console


async def kernel_image(directory: Path) -> None:
    """Debian's kernel as LinuxKit's images have theirs: the kernel, and a tar with its modules."""
    linux = await debian_kernel("stable")
    directory.mkdir()
    (directory / "bzImage").write_bytes(linux.image.read_bytes())
    modules = await kernel.modules(linux, kernels.MODULES)
    built_in = [path for path in linux.modules.glob("modules.builtin*") if "bin" not in path.suffix]
    with tarfile.open(directory / "kernel.tar", "w") as tar:
        for path in built_in:
            tar.add(path, str(path.relative_to(linux.root)))
        for entry in modules:
            info = tarfile.TarInfo(entry.path)
            info.size = entry.size
            tar.addfile(info, io.BytesIO(entry.data()))


async def test_a_failing_onboot_stops_the_boot_with_a_report(place: Path) -> None:
    await kernel_image(place / "linux")
    text = """
kernel: {image: ./linux, binary: bzImage, cmdline: "console=ttyS0 quiet panic=-1"}
onboot:
  - {name: fine, image: ./box, command: ["true"]}
  - {name: disk, image: ./box, command: [sh, -c, "echo looking for a disk; echo there is no disk >&2; exit 3"]}
  - {name: never, image: ./box, command: [echo, never]}
services:
  - {name: web, image: ./box, command: [echo, never]}
"""
    async with linked(text, place) as machine, booted(machine, place) as guest:
        failed = await guest.event("failed")
        states = await guest.states()
        await guest.tell("poweroff")
        await guest.ended()
        console = guest.console
    assert (failed["name"], failed["status"], failed["stage"]) == ("disk", 3, "onboot")
    assert failed["output"] == "looking for a disk\nthere is no disk\n"
    assert [states[name]["state"] for name in ("fine", "disk", "never", "web")] == [
        "ended",
        "failed",
        "waiting",
        "waiting",
    ]
    for line in (
        "the boot stopped",
        "onboot disk failed: it ended with 3 after",
        "1 of 3 were run before it; no service was started",
        "whit:   there is no disk",
    ):
        assert line in console
    assert "never: never" not in console
    assert "web: never" not in console


FIRST = """#cloud-config
hostname: told
ssh_authorized_keys: ["ssh-ed25519 AAAA me"]
write_files:
  - {path: /etc/told/deep/file, content: "told\\n", permissions: "0644", owner: "7:8"}
  - {path: /etc/motd, content: "more\\n", append: true}
"""


SEES = (
    KERNEL
    + """
first_boot: nocloud
onboot:
  - name: sees
    image: ./box
    binds: ["/etc:/machine", "/run/config:/config"]
    command:
      - sh
      - -c
      - >-
        hostname; cd /machine; stat -c "%a %u:%g" told/deep/file;
        cat told/deep/file motd /config/ssh/authorized_keys
  - {name: off, image: ./box, pid: host, capabilities: [CAP_KILL], command: [sh, -c, "kill -USR2 1; sleep 1000"]}
files:
  - {path: etc/motd, contents: "hello\\n"}
"""
)
SEEN = ["told", "644 7:8", "told", "hello", "more", "ssh-ed25519 AAAA me"]


def cidata(directory: Path, kind: str = "vfat", label: str = "cidata", **files: str) -> qemu.Disk:
    """A disk of the NoCloud data source."""
    place, image = directory / f"{label}-files", directory / f"{label}-{kind}"
    place.mkdir(exist_ok=True)
    image.unlink(missing_ok=True)
    for name, text in {"user_data": FIRST, "meta_data": "instance-id: i-1\n", **files}.items():
        (place / name.replace("_", "-")).write_text(text)
    names = sorted(map(str, place.iterdir()))
    if kind == "vfat":
        run(["mkfs.vfat", "-C", "-n", label, image, "1024"], check=True, capture_output=True)
        run(["mcopy", "-i", image, *names, "::"], check=True)
    else:
        run(["xorriso", "-as", "mkisofs", "-quiet", "-V", label, "-r", "-o", image, *names], check=True)
    return qemu.Disk(image, "cloud", read_only=True)


def seen(console: str) -> list[str]:
    return [line.removeprefix("sees: ") for line in console.splitlines() if line.startswith("sees: ")]


async def refused(machine: LinkedMachine, place: Path, first: FirstBootSpec | None, *disks: qemu.Disk) -> str:
    """The reason for which a machine starts nothing."""
    async with booted(machine, place, first=first, others=disks) as guest:
        failed = await guest.event("failed")
        await guest.tell("poweroff")
        await guest.ended()
        assert "sees:" not in guest.console
        assert f"first boot: {failed['report']}" in guest.console
        assert "nothing was started" in guest.console
    return str(failed["report"])


async def test_first_boot_comes_before_all(place: Path) -> None:
    """From the disk of a cloud; and from our own, which goes before it and here cannot be done."""
    (place / "user-data").write_text(FIRST)
    told = load_first_boot(place / "user-data")
    wrong = told.model_copy(update={"files": (WrittenFile(path="/etc/motd", overwrite=False),)})
    cloud = cidata(place, label="CIDATA")
    async with linked(SEES, place) as machine:
        async with booted(machine, place, others=[cloud]) as guest:
            await guest.ended()
            assert seen(guest.console) == SEEN, guest.console
        assert await refused(machine, place, wrong, cloud) == "/etc/motd could not be made: File exists"


@pytest.mark.full
async def test_a_cloud_that_tells_what_is_not_honoured(place: Path) -> None:
    async with linked(SEES, place) as machine:
        async with booted(machine, place, others=[cidata(place, "iso9660")]) as guest:
            await guest.ended()
            assert seen(guest.console) == SEEN, guest.console
        assert await refused(machine, place, None) == "there is no disk labelled cidata"
        two = (cidata(place), cidata(place, label="CIDATA"))
        assert await refused(machine, place, None, *two) == "more than one disk is labelled cidata"
        reason = await refused(machine, place, None, cidata(place, network_config="version: 2\n"))
        assert reason == "network-config of the disk cidata is not honoured"
        reason = await refused(machine, place, None, cidata(place, network_config="", user_data=f"{FIRST}users: []\n"))
        assert reason == "user-data, line 7: users is not honoured"
        reason = await refused(machine, place, None, cidata(place, user_data="#!/bin/sh\n"))
        assert reason == "user-data does not begin with #cloud-config, and nothing else is read here"


@pytest.mark.full
async def test_our_own_disk_tells_a_machine_that_asks_for_none(place: Path) -> None:
    (place / "user-data").write_text(FIRST)
    text = SEES.replace("first_boot: nocloud\n", "")
    async with (
        linked(text, place) as machine,
        booted(machine, place, first=load_first_boot(place / "user-data"), others=[cidata(place)]) as guest,
    ):
        await guest.ended()
        assert seen(guest.console) == SEEN, guest.console
