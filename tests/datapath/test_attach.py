"""Both forms of attaching to a link, and cgroups: added, replaced under traffic, found again and taken away."""

from __future__ import annotations

import errno
import os
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.veth import Pair

from whit.base.errors import SystemCallError, Unavailable
from whit.base.settings import Settings
from whit.datapath import attach, libbpf
from whit.datapath.abi import DropKey, DropValue
from whit.datapath.attach import Form
from whit.datapath.codec import struct_codec
from whit.datapath.maps import PerCpuMap
from whit.datapath.objects import BpfObject
from whit.datapath.pins import Pins
from whit.kernel import mount

pytestmark = pytest.mark.root

FORMS: list[Form] = ["tcx", "clsact"]
Counters = PerCpuMap[DropKey, DropValue]
Sample = Callable[[int, int], int]


@pytest.fixture(params=FORMS)
def form(request: pytest.FixtureRequest) -> Form:
    if request.param == "tcx" and attach.best_form() != "tcx":
        pytest.skip("this kernel has no TCX")
    return request.param  # type: ignore[no-any-return]


@pytest.fixture
def counters(sample_object: BpfObject) -> Iterator[Counters]:
    descriptor = os.dup(sample_object.map_fd("counters"))
    with PerCpuMap(descriptor, struct_codec(DropKey), struct_codec(DropValue)) as opened:
        yield opened


def counted(counters: Counters, number: int) -> int:
    value = counters.get(DropKey(number, 0))
    return 0 if value is None else value.packets


def listed_by_tc(pair: Pair) -> str:
    """What iproute2 says, which is not ours."""
    commands = (["tc", "qdisc", "show", "dev", pair.near], ["tc", "filter", "show", "dev", pair.near, "ingress"])
    return "".join(subprocess.run(command, check=True, capture_output=True, text=True).stdout for command in commands)


@pytest.mark.parametrize("direction", ["ingress", "egress"])
def test_packets_meet_the_program_until_it_is_detached(
    pair: Pair, pins: Pins, sample_object: BpfObject, counters: Counters, form: Form, direction: attach.Direction
) -> None:
    pin = pins.links / f"instance-1-{direction}"
    sender = pair.far if direction == "ingress" else pair.near
    attach.attach(pair.ifindex, direction, sample_object.program_fd("count_first"), pin, form)
    pair.send(10, sender)
    assert counted(counters, 1) == 10
    (found,) = attach.attachments(pins.links)
    assert (found.pin, found.form, found.hook, found.ifindex) == (pin, form, direction, pair.ifindex)
    assert found.program_id == libbpf.program_id(sample_object.program_fd("count_first"))
    assert attach.detach(pin, form)
    assert not attach.detach(pin, form)
    pair.send(10, sender)
    assert counted(counters, 1) == 10
    assert attach.attachments(pins.links) == []
    assert "clsact" not in listed_by_tc(pair)


def test_no_packet_passes_without_a_program_while_it_is_replaced(
    pair: Pair,
    pins: Pins,
    sample_object: BpfObject,
    counters: Counters,
    form: Form,
    sample: Sample,
) -> None:
    programs = [sample_object.program_fd(name) for name in ("count_first", "count_second")]
    pin = pins.links / "instance-1-ingress"
    attach.attach(pair.ifindex, "ingress", programs[0], pin, form)
    sender = Sender(pair)
    sender.start()
    try:
        for replacement in range(1, sample(200, 2_000) + 1):
            attach.attach(pair.ifindex, "ingress", programs[replacement % 2], pin, form)
            if replacement % 10 == 0:
                attach.replace_all(pins.links, lambda pin: programs[0])
            sender.wait_for(replacement * 100)
    finally:
        sender.stop()
    first, second = counted(counters, 1), counted(counters, 2)
    assert first + second == sender.sent
    assert min(first, second) > 0
    assert len(attach.attachments(pins.links)) == 1


class Sender(threading.Thread):
    """Sends without a pause, until it is stopped. Who waits for it has packets on the way between what he does, also
    on a machine that lets one thread run for long."""

    def __init__(self, pair: Pair) -> None:
        super().__init__()
        self.pair, self.sent, self.stopped = pair, 0, False

    def run(self) -> None:
        self.pair.send_while(self.wants_more)

    def wants_more(self, sent: int) -> bool:
        self.sent = sent
        return not self.stopped

    def wait_for(self, packets: int) -> None:
        while self.sent < packets and self.is_alive():
            time.sleep(0.0001)

    def stop(self) -> None:
        self.stopped = True
        self.join()


def test_a_link_that_is_gone_is_taken_away_and_its_name_is_free(
    pair: Pair, pins: Pins, sample_object: BpfObject, form: Form
) -> None:
    pin = pins.links / "instance-1-ingress"
    program = sample_object.program_fd("count_first")
    attach.attach(pair.ifindex, "ingress", program, pin, form)
    pair.delete()
    assert [found.ifindex for found in attach.attachments(pins.links)] == ([0] if form == "tcx" else [])
    attach.detach(pin, form)
    attach.detach(pin, form)
    assert attach.attachments(pins.links) == []


def test_a_pin_of_a_gone_link_is_taken_over_by_a_new_one(
    pair: Pair, pins: Pins, sample_object: BpfObject, counters: Counters, form: Form
) -> None:
    pin = pins.links / "instance-1-ingress"
    program = sample_object.program_fd("count_first")
    attach.attach(pair.ifindex, "ingress", program, pin, form)
    pair.delete()
    subprocess.run(["ip", "link", "add", pair.near, "up", "type", "veth", "peer", pair.far], check=False)
    for name in (pair.near, pair.far):
        subprocess.run(["ip", "link", "set", name, "up"], check=True)
    attach.attach(pair.ifindex, "ingress", program, pin, form)
    pair.send(5)
    assert counted(counters, 1) == 5


def test_replacing_all_removes_pins_of_links_that_are_gone(
    pair: Pair, pins: Pins, sample_object: BpfObject, form: Form
) -> None:
    attach.attach(
        pair.ifindex, "ingress", sample_object.program_fd("count_first"), pins.links / "instance-1-ingress", form
    )
    pair.delete()
    attach.replace_all(pins.links, lambda pin: sample_object.program_fd("count_second"))
    assert list(pins.links.iterdir()) == []


def test_filters_of_others_stay(pair: Pair, pins: Pins, sample_object: BpfObject) -> None:
    pin = pins.links / "uplink-x"
    attach.attach(pair.ifindex, "ingress", sample_object.program_fd("count_first"), pin, "clsact")
    other = ["tc", "filter", "add", "dev", pair.near, "ingress", "prio", "5", "u32", "match", "u32", "0", "0"]
    if subprocess.run(other, check=False, capture_output=True).returncode != 0:
        pytest.skip("this kernel has no u32 filter")
    attach.detach_all(pins.root)
    assert "u32" in listed_by_tc(pair)
    assert "bpf" not in listed_by_tc(pair)


def test_two_agents_share_a_link(
    pair: Pair, settings: Settings, pins: Pins, sample_object: BpfObject, counters: Counters, form: Form
) -> None:
    other = Pins.of(Settings(id=f"{settings.id[:6]}x", state_root=settings.state_root))
    other.make()
    try:
        first, second = (sample_object.program_fd(name) for name in ("count_first", "count_second"))
        attach.attach(pair.ifindex, "ingress", first, pins.uplink("x"), form)
        attach.attach(pair.ifindex, "ingress", second, other.uplink("x"), form)
        pair.send(3)
        assert (counted(counters, 1), counted(counters, 2)) == (3, 3)
        attach.detach_all(pins.root)
        pair.send(3)
        assert (counted(counters, 1), counted(counters, 2)) == (3, 6)
    finally:
        attach.detach_all(other.root)
        subprocess.run(["rm", "-r", str(other.root.parent)], check=True)


def test_a_missing_link_is_an_error(pins: Pins, sample_object: BpfObject, form: Form) -> None:
    with pytest.raises(SystemCallError) as raised:
        attach.attach(999_999, "ingress", sample_object.program_fd("count_first"), pins.links / "uplink-x", form)
    assert raised.value.errno == errno.ENODEV
    assert list(pins.links.iterdir()) == []


@pytest.fixture
def cgroup(settings: Settings) -> Iterator[Path]:
    root = next((point.path for point in mount.table() if point.kind == "cgroup2"), None)
    if root is None:
        pytest.skip("cgroup2 is not mounted")
    path = root / f"whit-{settings.id}"
    path.mkdir()
    yield path
    path.rmdir()


def connect_in(cgroup: Path, port: int) -> str:
    """The name of the error of a process of that cgroup that connects to a port on which nobody listens."""
    script = f"import socket; socket.create_connection(('127.0.0.1', {port}), 1)"
    command = ["sh", "-c", f'echo $$ > {cgroup}/cgroup.procs; exec /usr/bin/python3 -c "{script}"']
    return subprocess.run(command, check=False, capture_output=True, text=True).stderr.splitlines()[-1].split(":")[0]


def test_sockets_of_a_cgroup_meet_the_program(cgroup: Path, pins: Pins, sample_object: BpfObject) -> None:
    pin, program = pins.host("connect4"), sample_object.program_fd("connect4")
    assert connect_in(cgroup, 4242) == "ConnectionRefusedError"
    for _ in range(2):  # the second time in place
        attach.attach_cgroup(cgroup, "connect4", program, pin)
        assert [(found.form, found.hook) for found in attach.attachments(pins.links)] == [("cgroup", "connect4")]
    assert connect_in(cgroup, 4242) == "PermissionError"
    assert connect_in(cgroup, 4243) == "ConnectionRefusedError"
    assert attach.detach(pin)
    assert connect_in(cgroup, 4242) == "ConnectionRefusedError"


def test_a_directory_that_is_no_cgroup_is_refused(tmp_path: Path, pins: Pins, sample_object: BpfObject) -> None:
    program = sample_object.program_fd("connect4")
    with pytest.raises(Unavailable, match="cgroup2"):
        attach.attach_cgroup(tmp_path, "connect4", program, pins.host("connect4"))


def test_the_best_form_is_one_that_works(pair: Pair, pins: Pins, sample_object: BpfObject) -> None:
    pin = pins.uplink(socket.if_indextoname(pair.ifindex))
    attach.attach(pair.ifindex, "ingress", sample_object.program_fd("count_first"), pin)
    assert [found.form for found in attach.attachments(pins.links)] == [attach.best_form()]
