"""A name server, and a machine that answers at every address of its networks, in a namespace of the test; and the
node's resolver, started so that it asks that server."""

from __future__ import annotations

import functools
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterable
from pathlib import Path

from dnslib import AAAA, CNAME, QTYPE, RR, A, DNSRecord

import whit
from support.service_site import SERVER, sh
from whit.base.settings import Settings
from whit.control.resolver import FORM, MODULE
from whit.kernel.network import netns

SOURCES = Path(whit.__file__).resolve().parents[1]


class NameServer:
    """A name server outside. `zone`: records of names as (kind, data, seconds to live)."""

    def __init__(self, place: Path, addresses: Iterable[str]) -> None:
        self.zone: dict[str, list[tuple[str, str, int]]] = {}
        self.silent = False
        self.pause = 0.0
        self._sockets = [netns.call_in(place, functools.partial(_bound, address)) for address in addresses]
        self._stop = False
        self._threads = [threading.Thread(target=self._serve, args=(own,)) for own in self._sockets]
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        self._stop = True
        for thread in self._threads:
            thread.join(5)
        for own in self._sockets:
            own.close()

    def _serve(self, own: socket.socket) -> None:
        own.settimeout(0.1)
        while not self._stop:
            try:
                data, peer = own.recvfrom(4096)
            except TimeoutError:
                continue
            if not self.silent:
                time.sleep(self.pause)
                own.sendto(self._reply(DNSRecord.parse(data)), peer)

    def _reply(self, record: DNSRecord) -> bytes:
        reply = record.reply()
        name, kind = str(record.q.qname).rstrip(".").lower(), QTYPE.get(record.q.qtype)
        for _ in range(8):
            found = self.zone.get(name, [])
            for one, data, ttl in found:
                if one in (kind, "CNAME"):
                    rdata = {"A": A, "AAAA": AAAA, "CNAME": CNAME}[one](data)
                    reply.add_answer(RR(name, QTYPE.reverse[one], rdata=rdata, ttl=ttl))
            alias = next((data for one, data, _ in found if one == "CNAME"), None)
            if alias is None:
                break
            name = alias
        return bytes(reply.pack())


def _bound(address: str) -> socket.socket:
    own = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM)
    own.bind((address, 53))
    return own


def answer_at(place: Path, networks: Iterable[str], *ports: int) -> subprocess.Popen[str]:
    """One small server for all addresses of these networks."""
    inside = ["nsenter", f"--net={place}"]
    sh(*inside, "ip", "link", "set", "lo", "up")
    for network in networks:
        sh(*inside, "ip", "-6" if ":" in network else "-4", "route", "replace", "local", network, "dev", "lo")
    argv = [*inside, sys.executable, "-ISE", "-c", SERVER, "outside", *map(str, ports)]
    server = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    assert server.stdout.readline() == "ready\n"
    return server


def start_resolver(settings: Settings, server: str, directory: Path) -> subprocess.Popen[str]:
    """As the agent does, but with a resolv.conf of its own."""
    resolv_conf = directory / "resolv.conf"
    resolv_conf.write_text(f"nameserver {server}\n")
    resolv_conf.chmod(0o644)
    script = 'mount --bind "$1" /etc/resolv.conf && shift && exec "$@"'
    argv = ["unshare", "--mount", "sh", "-c", script, "sh", str(resolv_conf), sys.executable, "-P"]
    environment = {
        "PYTHONPATH": str(SOURCES),
        "PATH": os.environ["PATH"],
        "WHIT_RUN_ROOT": str(settings.run_root),
        "WHIT_STATE_ROOT": str(settings.state_root),
    }
    return subprocess.Popen(
        [*argv, "-m", MODULE, "--id", settings.id, FORM], env=environment, stderr=subprocess.PIPE, text=True
    )
