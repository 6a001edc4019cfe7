"""Which name servers are asked; that they are asked is in test_mesh_resolver.py."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path

import pytest

from whit.mesh.dns import upstream
from whit.mesh.dns.upstream import Upstream, servers_in


@pytest.mark.parametrize(
    ("text", "servers"),
    [
        ("nameserver 192.0.2.1\nnameserver 192.0.2.2\n", ["192.0.2.1", "192.0.2.2"]),
        ("nameserver 192.0.2.1\nnameserver 192.0.2.1\n", ["192.0.2.1"]),
        ("nameserver 10.77.0.2\nnameserver 192.0.2.1 # ours is first\n", ["192.0.2.1"]),
        ("nameserver 2001:db8::1\nnameserver fe80::1%eth0\n", ["2001:db8::1", "fe80::1%eth0"]),
        ("# nameserver 192.0.2.1\n; nameserver 192.0.2.2\nsearch example\noptions edns0\n", []),
        ("nameserver\nnameserver localhost\n\n\tnameserver\t192.0.2.3", ["192.0.2.3"]),
        ("", []),
    ],
)
def test_resolv_conf(text: str, servers: list[str]) -> None:
    assert servers_in(text, "10.77.0.2") == servers


def test_the_file_is_read_again_when_it_changed_and_may_be_missing(tmp_path: Path) -> None:
    path = tmp_path / "resolv.conf"
    found = Upstream(path, "10.77.0.2")
    assert found.servers() == []
    path.write_text("nameserver 192.0.2.1\n")
    assert found.servers() == ["192.0.2.1"]
    other = tmp_path / "other"
    other.write_text("nameserver 192.0.2.2\n")
    other.replace(path)
    assert found.servers() == ["192.0.2.2"]
    path.unlink()
    assert found.servers() == ["192.0.2.2"], "a file that is being replaced is no reason to forget"


async def test_questions_under_way_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upstream, "LIMIT", 3)
    monkeypatch.setattr(upstream, "TIMEOUT", 1.5)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
        silent.bind(("127.0.0.1", 0))
        path = tmp_path / "resolv.conf"
        path.write_text("nameserver 127.0.0.1\n")
        found = Upstream(path, "10.77.0.2", silent.getsockname()[1])
        asked = [asyncio.create_task(found.ask(bytes([0, number]), stream=False)) for number in range(5)]
        done, waiting = await asyncio.wait(asked, timeout=0.1)
        assert (len(done), len(waiting), found.under_way) == (2, 3, 3)
        assert await asyncio.gather(*asked) == [None] * 5
        assert found.under_way == 0


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
async def test_both_families_answer_and_forged_ids_are_passed_over(tmp_path: Path, address: str) -> None:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as server:
        server.bind((address, 0))
        path = tmp_path / "resolv.conf"
        path.write_text(f"nameserver {address}\n")
        found = Upstream(path, "10.77.0.2", server.getsockname()[1])
        asked = asyncio.create_task(found.ask(b"\x12\x34question", stream=False))
        question, asker = await asyncio.to_thread(server.recvfrom, 512)
        server.sendto(b"\x99\x99forged", asker)
        server.sendto(b"\x12\x34answer", asker)
        assert (question, await asked) == (b"\x12\x34question", b"\x12\x34answer")
