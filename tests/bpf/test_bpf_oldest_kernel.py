"""Debian 12's own kernel, 6.1, takes the programs: it allows less stack, and its verifier walks further."""

from __future__ import annotations

import gzip
import re
import shutil
import subprocess
from collections.abc import Callable
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path

import pytest

from whit.datapath import build
from whit.datapath.attach import CGROUP_HOOKS
from whit.datapath.elf import Elf
from whit.datapath.install import DatapathConfig

pytestmark = pytest.mark.machine

LOADER = Path(__file__).parent.parent / "support" / "oldest_kernel.c"
TOOLS = ("gcc", "qemu-system-x86_64", "apt-get", "dpkg")
CONFIG = DatapathConfig(IPv4Network("10.7.0.0/16"), IPv6Network("fd07::/32"), mark=1, mark_mask=3, netns_cookie=1)
DIRECTORY, PROGRAM, DEVICE = 0o040755, 0o100755, 0o020600


def configured(path: Path) -> bytes:
    """The object with constants as an agent sets them: the verifier leaves out what zeros would close."""
    data = path.read_bytes()
    elf = Elf(data)
    constants = elf.section(".rodata").data
    changed = bytearray(constants)
    for symbol in elf.symbols:
        if symbol.section == ".rodata" and symbol.name in CONFIG.constants:
            value = CONFIG.constants[symbol.name]
            packed = value if isinstance(value, bytes) else int(value).to_bytes(symbol.size, "little")  # type: ignore[call-overload]
            changed[symbol.offset : symbol.offset + symbol.size] = packed
    assert data.count(constants) == 1
    return data.replace(constants, bytes(changed))


def archive(entries: list[tuple[str, int, bytes]]) -> bytes:
    """An initramfs (the kernel's buffer-format.rst, `newc`)."""
    packed = b""
    for number, (name, mode, data) in enumerate([*entries, ("TRAILER!!!", 0, b"")], 1):
        device = (5, 1) if mode == DEVICE else (0, 0)
        fields = [number, mode, 0, 0, 1, 0, len(data), 0, 0, *device, len(name) + 1, 0]
        head = b"070701" + b"".join(b"%08X" % value for value in fields) + name.encode() + b"\0"
        packed += head + bytes(-len(head) % 4) + data + bytes(-len(data) % 4)
    return gzip.compress(packed, 1)


def run(*argv: str, cwd: Path, patience: float = 120) -> str:
    done = subprocess.run(
        argv, cwd=cwd, capture_output=True, text=True, errors="replace", timeout=patience, check=False
    )
    if done.returncode != 0:
        pytest.skip(f"{' '.join(argv[:3])} failed: {done.stderr[-300:]}")
    return done.stdout


def kernel(directory: Path) -> Path:
    """Debian's, from its mirror."""
    depends = run("apt-cache", "depends", "linux-image-cloud-amd64", cwd=directory)
    found = re.search(r"linux-image-6\.1\S+", depends)
    if found is None:
        pytest.skip("the package mirror has no linux-image-6.1")
    run("apt-get", "download", "-q", found[0], cwd=directory)
    (package,) = directory.glob("*.deb")
    run("dpkg", "-x", str(package), "unpacked", cwd=directory)
    (image,) = directory.glob("unpacked/boot/vmlinuz*")
    return image


@pytest.fixture
def console(tmp_path: Path) -> str:
    """What the machine said until it was off."""
    missing = [tool for tool in TOOLS if shutil.which(tool) is None]
    if missing:
        pytest.skip(f"needs {', '.join(missing)}")
    image = kernel(tmp_path)
    run("gcc", "-O1", "-static", "-o", "init", str(LOADER), "-lbpf", "-lelf", "-lz", cwd=tmp_path)
    entries = [("dev", DIRECTORY, b""), ("dev/console", DEVICE, b"")]
    entries += [("init", PROGRAM, (tmp_path / "init").read_bytes())]
    entries += [("object", PROGRAM, configured(build.object_path("datapath")))]
    (tmp_path / "initrd").write_bytes(archive(entries))
    machine = "qemu-system-x86_64 -machine q35 -cpu max,cx16=off -m 512 -nographic -no-reboot"
    order = ["-kernel", str(image), "-initrd", "initrd", "-append", "console=ttyS0 quiet panic=-1"]
    return run(*machine.split(), *order, cwd=tmp_path)


def test_linux_6_1_loads_every_program(console: str, record_number: Callable[[str, object], None]) -> None:
    said = re.findall(r"LOADED (\w+) (-?\d+) (.*?)\r?\n\r?\n?(?=LOADED|\Z|\[)", console, re.S)
    results = {name: (int(result), log) for name, result, log in said}
    assert results.keys() == {"from_instance", "to_instance", "from_uplink", "to_uplink", *CGROUP_HOOKS}, console
    for name, (result, log) in results.items():
        assert result == 0, f"{name}: {log[-1500:]}"
        walked = re.search(r"processed (\d+) insns", log)
        assert walked is not None
        record_number(f"bpf: instructions that the verifier of Linux 6.1 walked in {name}", int(walked[1]))
        assert int(walked[1]) < 250_000
