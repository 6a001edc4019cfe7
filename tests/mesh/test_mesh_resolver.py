"""The resolver as a real process in a namespace of its own, with a name server of the test behind it."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import Any

import pytest
from dnslib import EDNS0, QTYPE, RCODE, RR, TXT, A, DNSRecord
from support.service_site import until as eventually
from support.slowness import patient, quick

import whit
from whit.base.settings import Settings
from whit.kernel.network import netns
from whit.mesh.dns import names, upstream
from whit.mesh.dns.names import NameTable
from whit.mesh.dns.questions import Answer, Listener, parse

pytestmark = [pytest.mark.machine, pytest.mark.timeout(120)]

RESOLVER, ASKER, STRANGER, SERVER = "10.219.0.2", "10.219.0.16", "192.0.2.9", "127.0.0.9"
RESOLVER6, ASKER6, STRANGER6 = "fd77::2", "fd77::10", "fd78::9"
TABLE = NameTable(
    listen=RESOLVER,
    services={"shop": {"web": ["10.219.128.1", "fd00::8001"]}},
    instances={ASKER: ("shop", "web-1")},
    listen6=RESOLVER6,
)
SOURCES = Path(whit.__file__).resolve().parents[1]
ENVIRONMENT = {"PYTHONPATH": str(SOURCES), "PATH": os.environ["PATH"]}


class Server:
    """A name server that knows everything under `example.` except what is `silent`; `big` only fits into TCP."""

    def __init__(self, path: Path) -> None:
        self.asked: list[str] = []
        self.datagrams = netns.call_in(path, lambda: _bound(socket.SOCK_DGRAM))
        self.streams = netns.call_in(path, lambda: _bound(socket.SOCK_STREAM))
        self.streams.listen()
        self.threads = [threading.Thread(target=loop) for loop in (self._serve_datagrams, self._serve_streams)]
        for thread in self.threads:
            thread.start()

    def close(self) -> None:
        for own in (self.datagrams, self.streams):
            with contextlib.suppress(OSError):  # a datagram socket is not connected
                own.shutdown(socket.SHUT_RDWR)
            own.close()
        for thread in self.threads:
            thread.join(5)

    def _serve_datagrams(self) -> None:
        self.datagrams.settimeout(0.1)
        while self.datagrams.fileno() >= 0:
            try:
                data, address = self.datagrams.recvfrom(65535)
            except TimeoutError:
                continue
            except OSError:
                return
            reply = self._reply(data, 512)
            if reply is not None:
                self.datagrams.sendto(reply, address)

    def _serve_streams(self) -> None:
        while True:
            try:
                connection, _ = self.streams.accept()
            except OSError:
                return
            with connection:
                (length,) = struct.unpack("!H", connection.recv(2))
                reply = self._reply(connection.recv(length), 65535)
                if reply is not None:
                    connection.sendall(struct.pack("!H", len(reply)) + reply)

    def _reply(self, data: bytes, room: int) -> bytes | None:
        record = DNSRecord.parse(data)
        name = str(record.q.qname)
        self.asked.append(name)
        if name.startswith("silent."):
            return None
        reply = record.reply()
        if name.startswith("big."):
            for number in range(40):
                reply.add_answer(RR(name, QTYPE.TXT, rdata=TXT(f"{number}" * 20)))
        else:
            reply.add_answer(RR(name, QTYPE.A, rdata=A("203.0.113.7")))
        return bytes(reply.pack() if len(reply.pack()) <= room else reply.truncate().pack())


def _bound(kind: int) -> socket.socket:
    own = socket.socket(socket.AF_INET, kind)
    own.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    own.bind((SERVER, 53))
    return own


@dataclass
class Node:
    settings: Settings
    path: Path
    resolv_conf: Path
    server: Server
    process: subprocess.Popen[str] | None = None
    seen: list[str] = field(default_factory=list)

    def start(self) -> subprocess.Popen[str]:
        self.process = subprocess.Popen(self.argv, env=ENVIRONMENT, stderr=subprocess.PIPE, text=True)
        self.wait_until_it_answers()
        return self.process

    @property
    def argv(self) -> list[str]:
        """With a resolv.conf of its own, as a mount namespace can have it."""
        script = 'mount --bind "$1" /etc/resolv.conf && shift && exec "$@"'
        wrapped = ["nsenter", f"--net={self.path}", "unshare", "--mount", "sh", "-c", script, "sh"]
        own = [sys.executable, "-P", "-m", "whit.mesh.dns.resolver", "--id", self.settings.id]
        return [*wrapped, str(self.resolv_conf), *own]

    def wait_until_it_answers(self) -> None:
        """By both ways: it listens for datagrams first."""
        until = time.monotonic() + patient(45)
        for stream in (False, True):
            while time.monotonic() < until and (self.process is None or self.process.poll() is None):
                with contextlib.suppress(OSError):
                    if self.ask("web", stream=stream, patience=patient(0.2)) is not None:
                        break
                time.sleep(0.01)
            assert time.monotonic() < until, "it does not answer"

    def stop(self) -> str:
        """What it said."""
        if self.process is None:
            return ""
        self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.communicate(timeout=patient(30))[1]
        except subprocess.TimeoutExpired:
            self.process.kill()
            return self.process.communicate()[1]

    def ask(
        self, name: str, kind: str = "A", *, asker: str = ASKER, stream: bool = False, patience: float = 10.0
    ) -> DNSRecord | None:
        question = DNSRecord.question(name, kind)
        reply = self.send(bytes(question.pack()), asker=asker, stream=stream, patience=patience)
        if reply is None:
            return None
        record = DNSRecord.parse(reply)
        assert record.header.id == question.header.id
        assert record.header.qr
        return record

    def send(
        self, question: bytes, *, asker: str = ASKER, stream: bool = False, patience: float = 10.0
    ) -> bytes | None:
        exchange = _over_tcp if stream else _over_udp
        return netns.call_in(self.path, lambda: exchange(question, asker, patience))

    def addresses(self, name: str, kind: str = "A", **options: Any) -> list[str]:
        reply = self.ask(name, kind, **options)
        assert reply is not None
        return [str(one.rdata) for one in reply.rr]


def _over_udp(question: bytes, asker: str, patience: float) -> bytes | None:
    family = socket.AF_INET6 if ":" in asker else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as own:
        own.settimeout(patience)
        own.bind((asker, 0))
        try:
            own.connect((RESOLVER6 if ":" in asker else RESOLVER, 53))
            own.send(question)
            return own.recv(65535)
        except (TimeoutError, ConnectionRefusedError):
            return None


def _over_tcp(question: bytes, asker: str, patience: float) -> bytes | None:
    resolver = RESOLVER6 if ":" in asker else RESOLVER
    with socket.create_connection((resolver, 53), timeout=patience, source_address=(asker, 0)) as own:
        own.sendall(struct.pack("!H", len(question)) + question)
        with own.makefile("rb") as replies:
            head = replies.read(2)
            return replies.read(*struct.unpack("!H", head)) if head else None


@pytest.fixture
def node(settings: Settings, tmp_path: Path) -> Iterator[Node]:
    path = settings.netns_dir / "node"
    netns.create(path)
    try:
        for argv in (
            ["link", "set", "lo", "up"],
            *(["addr", "add", one, "dev", "lo"] for one in (RESOLVER, ASKER, STRANGER)),
            *(["addr", "add", f"{one}/128", "dev", "lo", "nodad"] for one in (RESOLVER6, ASKER6, STRANGER6)),
        ):
            subprocess.run(["nsenter", f"--net={path}", "ip", *argv], check=True)
        resolv_conf = tmp_path / "resolv.conf"
        resolv_conf.write_text(f"search example\nnameserver {RESOLVER}\nnameserver ::1\nnameserver {SERVER}\n")
        resolv_conf.chmod(0o644)
        tmp_path.chmod(0o755)
        names.write_state(settings, TABLE)
        server = Server(path)
        node = Node(settings, path, resolv_conf, server)
        try:
            node.start()
            yield node
        finally:
            node.stop()
            server.close()
    finally:
        netns.remove(path)


def test_own_names_have_addresses_of_both_families(node: Node) -> None:
    assert node.addresses("web", "AAAA") == ["fd00::8001"]
    assert node.addresses("web.shop.whit", "ANY") == ["10.219.128.1", "fd00::8001"]
    assert node.addresses(IPv6Address("fd00::8001").reverse_pointer, "PTR") == ["web.shop.whit."]
    unknown = node.ask(IPv6Address("fd00::99").reverse_pointer, "PTR")
    assert unknown is not None
    assert unknown.header.rcode == RCODE.NXDOMAIN
    assert not node.server.asked


def test_a_name_that_stands_for_one_elsewhere_is_followed(node: Node) -> None:
    names.write_state(node.settings, replace(TABLE, aliases={"shop": {"mail": "mx.example"}}))
    assert node.addresses("mail") == ["mx.example.", "203.0.113.7"]
    assert node.addresses("mail", "CNAME") == ["mx.example."]


@pytest.mark.parametrize("stream", [False, True])
def test_own_names(node: Node, stream: bool) -> None:
    assert node.addresses("web", stream=stream) == ["10.219.128.1"]
    assert node.addresses("WEB.shop.whit", stream=stream) == ["10.219.128.1"]
    assert node.addresses("web-1", stream=stream) == [ASKER]
    assert node.addresses("web-1", "AAAA", stream=stream) == []
    assert node.addresses("1.128.219.10.in-addr.arpa", "PTR", stream=stream) == ["web.shop.whit."]
    assert code(node.ask("web-1", "AAAA", stream=stream)) == RCODE.NOERROR
    assert code(node.ask("nothing", stream=stream)) == RCODE.NXDOMAIN
    assert code(node.ask("99.0.219.10.in-addr.arpa", "PTR", stream=stream)) == RCODE.NXDOMAIN
    assert node.server.asked == []


@pytest.mark.parametrize("stream", [False, True])
def test_it_answers_by_ipv6(node: Node, stream: bool) -> None:
    names.write_state(node.settings, replace(TABLE, instances={ASKER6: ("shop", "web-1")}))
    assert node.addresses("web", "AAAA", asker=ASKER6, stream=stream) == ["fd00::8001"]
    assert node.addresses("web-1", "AAAA", asker=ASKER6, stream=stream) == [ASKER6]
    assert node.addresses("some.example", asker=ASKER6, stream=stream) == ["203.0.113.7"]
    assert node.send(bytes(DNSRecord.question("web").pack()), asker=STRANGER6, stream=stream, patience=0.3) is None


def code(record: DNSRecord | None) -> int:
    assert record is not None
    return int(record.header.rcode)


def test_other_names_are_passed_on_over_udp_and_tcp(node: Node) -> None:
    assert node.addresses("some.example") == ["203.0.113.7"]
    assert node.addresses("some.example", stream=True) == ["203.0.113.7"]
    cut = node.ask("big.example", "TXT")
    assert cut is not None
    assert cut.header.tc
    assert len(node.addresses("big.example", "TXT", stream=True)) == 40
    assert node.addresses("7.113.0.203.in-addr.arpa", "PTR") == ["203.0.113.7"]
    assert set(node.server.asked) == {"some.example.", "big.example.", "7.113.0.203.in-addr.arpa."}


def test_the_agent_is_told_what_was_asked(node: Node) -> None:
    with contextlib.closing(Listener(node.settings.resolver_dir)) as listener:
        assert node.addresses("some.example") == ["203.0.113.7"]
        assert node.addresses("web") == ["10.219.128.1"]
        assert node.addresses("other.example", stream=True) == ["203.0.113.7"]
        told = list(listener.read())
    asker, address = IPv4Address(ASKER), IPv4Address("203.0.113.7")
    assert told == [Answer(asker, "some.example", (address,)), Answer(asker, "other.example", (address,))]
    assert node.addresses("some.example") == ["203.0.113.7"], "nobody listens any more"
    with contextlib.closing(Listener(node.settings.resolver_dir)) as again:
        node.addresses("new.example")
        assert [one.name for one in again.read()] == ["new.example"]
        for number in range(9):
            node.addresses(f"n{number}.example")
        assert len(list(again.read(limit=7))) == 7


def test_no_answer_is_too_strange_to_be_told(sample: Callable[[int, int], int]) -> None:
    good = DNSRecord.question("a.example").reply()
    good.add_answer(RR("a.example", QTYPE.A, rdata=A("203.0.113.7")))
    whole = bytes(16) + bytes(good.pack())
    assert parse(whole) is not None
    for seed in range(sample(300, 5000)):
        chance = random.Random(seed)
        broken = bytearray(whole[: chance.randint(0, len(whole))])
        for _ in range(chance.randint(0, 6)):
            if broken:
                broken[chance.randrange(len(broken))] = chance.randrange(256)
        parse(bytes(broken))


def test_a_server_that_is_silent_is_told_as_a_failure_in_time(node: Node) -> None:
    def asked() -> int:
        node.server.asked.clear()
        return code(node.ask("silent.example", patience=patient(20)))

    assert quick(asked, upstream.PATIENCE + 1, times=3) == RCODE.SERVFAIL
    assert node.server.asked.count("silent.example.") == 2


@pytest.mark.parametrize("stream", [False, True])
def test_a_server_that_is_not_there_is_passed_over_at_once(node: Node, stream: bool) -> None:
    node.resolv_conf.write_text(f"nameserver 127.0.0.10\nnameserver {SERVER}\n")
    assert quick(lambda: node.addresses("some.example", stream=stream), 0.9) == ["203.0.113.7"]
    node.resolv_conf.write_text("nameserver 127.0.0.10\nnameserver 127.0.0.11\n")
    assert quick(lambda: code(node.ask("some.example", stream=stream)), 0.9) == RCODE.SERVFAIL


def test_one_that_waits_holds_up_nobody(node: Node) -> None:
    waiting = threading.Thread(target=node.ask, args=("silent.example",))
    waiting.start()
    assert eventually(lambda: "silent.example." in node.server.asked)
    assert quick(lambda: node.addresses("web"), 0.9, times=3) == ["10.219.128.1"]
    waiting.join()


def test_new_names_and_servers_are_known_at_once(node: Node) -> None:
    names.write_state(node.settings, replace(TABLE, services={"shop": {"api": ["10.219.128.9"]}}))
    assert node.addresses("api") == ["10.219.128.9"]
    assert code(node.ask("web")) == RCODE.NXDOMAIN
    node.resolv_conf.write_text("# none\n")
    assert code(node.ask("some.example")) == RCODE.SERVFAIL


def test_a_state_file_that_is_broken_leaves_the_last_good_one(node: Node) -> None:
    path = names.state_file(node.settings)
    other = path.with_suffix(".broken")
    other.write_text('{"listen": ')
    other.chmod(0o644)
    other.replace(path)
    assert node.addresses("web") == ["10.219.128.1"]
    assert "not understood" in node.stop()


def test_only_addresses_of_the_pool_are_served(node: Node) -> None:
    assert node.ask("web", asker=STRANGER, patience=0.5) is None
    assert node.ask("some.example", asker=STRANGER, patience=0.5) is None
    assert node.server.asked == []


def test_edns_is_answered_and_what_is_no_question_is_not(node: Node) -> None:
    question = DNSRecord.question("web")
    question.add_ar(EDNS0(udp_len=4096))
    reply = DNSRecord.parse(node.send(bytes(question.pack())))
    assert [extra.rtype for extra in reply.ar] == [QTYPE.OPT]
    answer = DNSRecord.question("web").reply()
    for data in (b"", b"\0", bytes(12), bytes(answer.pack()), os.urandom(40), b"\xff" * 512):
        reply_to_noise = node.send(data, patience=0.2)
        assert reply_to_noise is None or DNSRecord.parse(reply_to_noise).header.rcode in (RCODE.FORMERR, RCODE.NOTIMP)
    assert node.addresses("web") == ["10.219.128.1"]


def test_no_datagram_is_too_strange(node: Node, sample: Callable[[int, int], int]) -> None:
    """Questions in which some bytes are others, and what is cut off."""
    chance = random.Random(7)
    good = bytes(DNSRecord.question("web").pack())
    with netns.call_in(node.path, lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as own:
        own.bind((ASKER, 0))
        for _ in range(sample(500, 20000)):
            data = bytearray(good)
            for _ in range(chance.randrange(1, 6)):
                data[chance.randrange(len(data))] = chance.randrange(256)
            own.sendto(data[: chance.randrange(1, len(data) + 1)], (RESOLVER, 53))
    node.wait_until_it_answers()
    assert node.addresses("web") == ["10.219.128.1"]
    assert "Traceback" not in node.stop()


def test_streams_that_say_nothing_or_nonsense_keep_nobody_out(node: Node) -> None:
    """More than it serves at once: those that are too many are closed, and places become free again."""
    with contextlib.ExitStack() as opened:
        for number in range(300):
            one = opened.enter_context(netns.call_in(node.path, lambda: socket.create_connection((RESOLVER, 53), 5)))
            one.sendall((b"", b"\0", b"\xff\xff" + bytes(99), b"\0\x05hello")[number % 4])
        assert node.addresses("web") == ["10.219.128.1"]

    def answers() -> bool:
        with contextlib.suppress(OSError):
            return node.ask("web", stream=True) is not None
        return False

    assert eventually(answers)
    assert "Traceback" not in node.stop()


PARENT = """
import subprocess, sys
child = subprocess.Popen(sys.argv[1:])
print(child.pid, flush=True)
child.wait()
"""


def test_it_lives_on_when_its_parent_is_killed(node: Node) -> None:
    node.stop()
    node.process = None
    argv = [sys.executable, "-c", PARENT, *node.argv]
    parent = subprocess.Popen(argv, env=ENVIRONMENT, stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    try:
        node.wait_until_it_answers()
        parent.kill()
        parent.wait(30)
        for stream in (False, True):
            assert node.addresses("web", stream=stream) == ["10.219.128.1"]
        assert f"PPid:\t{parent.pid}\n" not in Path(f"/proc/{pid}/status").read_text()
    finally:
        parent.stdout.close()
        os.kill(pid, signal.SIGTERM)


def test_it_has_no_rights_and_takes_little_memory(node: Node, record_number: Callable[[str, object], None]) -> None:
    assert node.process is not None
    status = dict(
        line.split(":\t", 1)
        for line in Path(f"/proc/{node.process.pid}/status").read_text().splitlines()
        if ":\t" in line
    )
    assert set(status["Uid"].split()) == {"65534"}
    assert status["Groups"].strip() == ""
    assert int(status["CapEff"], 16) == int(status["CapPrm"], 16) == 0
    assert status["NoNewPrivs"].strip() == "1"
    resident = int(status["VmRSS"].split()[0])
    record_number("resolver RSS, KiB", resident)
    assert resident < 26 << 10


def test_it_starts_again_where_another_was_killed(node: Node) -> None:
    assert node.process is not None
    assert node.addresses("web", stream=True)
    node.process.kill()
    node.process.communicate()
    began = time.monotonic()
    node.start()
    assert node.addresses("web", stream=True) == ["10.219.128.1"]
    assert time.monotonic() - began < patient(30), "the addresses of its connections keep it out for a minute"


def test_it_does_not_start_without_a_state_file(settings: Settings) -> None:
    argv = [sys.executable, "-P", "-m", "whit.mesh.dns.resolver", "--id", settings.id]
    done = subprocess.run(argv, env={"PYTHONPATH": str(SOURCES)}, capture_output=True, text=True, timeout=patient(60))
    assert done.returncode == 1
    assert done.stderr.startswith("whit-resolver: ")
    assert str(names.state_file(settings).parent) in done.stderr
    assert "Traceback" not in done.stderr
