"""Specialised kernels: what they are configured with, and what is refused. That they build and boot, guests/ holds."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
from support import hardening

from whit.base.errors import InputError, Unavailable
from whit.image.forms import probes
from whit.image.forms.bootable import VERITY_MODULES
from whit.image.sources import specialised
from whit.tools import kbuild


def options_of(text: str) -> list[str]:
    return [line for line in text.splitlines() if line and not line.startswith("#")]


@pytest.mark.parametrize("architecture", ["amd64", "arm64"])
def test_options_are_told_once_and_as_kconfig_reads_them(architecture: str) -> None:
    options = options_of(specialised.configuration(architecture, specialised.SETS))
    assert [line for line in options if not re.fullmatch(r'CONFIG_[A-Z0-9_]+=(y|\d+|".*")', line)] == []
    assert len({line.partition("=")[0] for line in options}) == len(options)


@pytest.mark.parametrize("architecture", ["amd64", "arm64"])
def test_what_the_kernel_defends_itself_with_is_asked_for(architecture: str) -> None:
    asked = hardening.on(specialised.configuration(architecture, ()))
    assert hardening.wanted(architecture) - asked == hardening.BROUGHT[architecture]


def test_a_set_adds_to_the_usual() -> None:
    usual = set(options_of(specialised.configuration("amd64")))
    more = set(options_of(specialised.configuration("amd64", ["bpf"])))
    assert usual < more
    assert "CONFIG_BPF_SYSCALL=y" in more - usual


def test_what_guests_load_is_built_in() -> None:
    built_in = {name for one in ("base", *specialised.USUAL) for name in specialised.MODULES[one]}
    assert {*VERITY_MODULES} <= built_in


def test_an_unknown_set_is_refused() -> None:
    with pytest.raises(InputError, match="no set 'gpu'") as error:
        specialised.configuration("amd64", ["gpu"])
    assert error.value.hint == "there are: net, disk, containers, bpf"


async def test_without_a_compiler_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "make").symlink_to(shutil.which("make") or "/usr/bin/make")
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    with pytest.raises(Unavailable) as error:
        await specialised.obtain(tmp_path / "kernels", "amd64", seen={})
    assert error.value.hint.startswith("apt-get install gcc flex bison bc")
    assert not (tmp_path / "kernels").exists()


def test_doctor_names_the_compiler_for_the_other_architecture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    other = "arm64" if kbuild.compiler_of("amd64") == "gcc" else "amd64"
    (found,) = (one for one in probes.features() if one.name == f"specialised kernels for {other}")
    assert found.state == "missing"
    assert found.hint == f"apt install {kbuild.compiler_package(other)}"


def test_another_architecture_needs_its_compiler() -> None:
    other = "arm64" if kbuild.compiler_of("amd64") == "gcc" else "amd64"
    assert kbuild.compiler_of(other) in ("aarch64-linux-gnu-gcc", "x86_64-linux-gnu-gcc")
