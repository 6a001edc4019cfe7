"""Whatever stands in a machine file, a cloud-config or an Ignition config, only mistakes come out."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest

from whit.base.errors import InputError
from whit.formats.firstboot.userdata import load_first_boot
from whit.formats.machine.document import load_machine

MACHINE = (Path(__file__).parents[2] / "examples/machine/web.yml").read_text()
LINUXKIT = """
kernel: {image: "linuxkit/kernel:6.6", cmdline: "console=ttyS0"}
init: ["linuxkit/init:1"]
onboot: [{name: a, image: b, binds: ["/a:/b:ro"], rlimits: ["nofile,1,2"], runtime: {mkdir: [/x]}}]
services: [{name: c, image: d, mounts: [{destination: /x, type: tmpfs}], ready: {tcp: 1}, sysctl: {a.b: c}}]
files: [{path: a/b, contents: c, mode: "0644"}, {path: d, directory: true}]
volumes: [{name: v, readonly: true}]
"""
CLOUD = """#cloud-config
hostname: a
write_files: [{path: /a, content: b, permissions: "0644", owner: root, encoding: b64}]
ssh_authorized_keys: ["ssh-rsa AAAA x"]
"""
IGNITION = """{"ignition": {"version": "3.0.0"}, "storage": {"files": [{"path": "/a", "mode": 420, "contents":
{"source": "data:,x", "verification": {"hash": "sha256-00"}}}], "links": [{"path": "/b", "target": "/c"}]}}"""
PIECES = [
    "{}",
    "[]",
    "''",
    "null",
    "~",
    "-1",
    "x",
    "[[]]",
    "{a: b}",
    "!!binary x",
    "&a",
    "*a",
    "<<: {}",
    "\0",
    "\t",
    ":",
    "é",
]


def mutated(text: str, chance: random.Random) -> str:
    """The text with some words of it exchanged, doubled, or cut out."""
    for _ in range(chance.randint(1, 4)):
        at = chance.randrange(len(text))
        end = min(len(text), at + chance.choice((0, 1, 1, 3, 8, 30)))
        other = chance.randrange(len(text))
        piece = chance.choice((chance.choice(PIECES), text[other : other + chance.randint(1, 20)], ""))
        text = text[:at] + piece + text[end:]
    return text


@pytest.mark.parametrize(
    ("text", "load"),
    [(MACHINE, load_machine), (LINUXKIT, load_machine), (CLOUD, load_first_boot), (IGNITION, load_first_boot)],
    ids=["machine", "linuxkit", "cloud-config", "ignition"],
)
def test_only_mistakes_come_out(
    tmp_path: Path, text: str, load: Callable[[Path], object], sample: Callable[[int, int], int]
) -> None:
    (tmp_path / "pages").mkdir()
    file = tmp_path / "machine.yml"
    wrong = 0
    rounds = sample(150, 5000)
    for number in range(rounds):
        broken = mutated(text, random.Random(number))
        file.write_text(broken, encoding="utf-8", errors="replace")
        try:
            load(file)
        except InputError:
            wrong += 1
        except Exception as error:
            raise AssertionError(f"{error!r} of:\n{broken}") from error
    assert wrong > rounds // 4, "the mutations reach something"
