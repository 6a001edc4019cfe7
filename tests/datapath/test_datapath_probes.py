"""Probes try what they say, and leave nothing."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from whit.base.errors import SystemCallError
from whit.datapath import libbpf, probes

pytestmark = pytest.mark.root


def test_this_machine_has_what_is_required() -> None:
    found = probes.probe_all()
    assert [feature for feature in found if feature.required and feature.state != "works"] == []
    assert len({feature.name for feature in found}) == len(found) == 9


def test_one_way_to_attach_to_links_works() -> None:
    assert "works" in (probes.tcx().state, probes.clsact_filter().state)


def test_probes_leave_no_descriptor() -> None:
    probes.probe_all()
    before = sorted(path.name for path in Path("/proc/self/fd").iterdir())
    probes.probe_all()
    assert sorted(path.name for path in Path("/proc/self/fd").iterdir()) == before


def test_a_refusal_is_told_with_a_hint(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel really refuses: a program that ends without a result."""
    monkeypatch.setattr(probes, "REDIRECT_PEER", bytes.fromhex("9500000000000000"))
    feature = probes.peer()
    assert feature.state == "missing"
    assert "bpf_prog_load" in feature.detail
    assert feature.hint


def test_a_system_call_error_names_the_call() -> None:
    with pytest.raises(SystemCallError, match="bpf_obj_get_info_by_fd"):
        libbpf.map_info(os.open("/dev/null", os.O_RDONLY))
