"""The reference page is that of the code."""

from __future__ import annotations

from pathlib import Path

from whit.formats.app import reference
from whit.formats.app.service import KEYS
from whit.formats.machine import reference as machine_reference
from whit.runtime.bundle import capabilities as runtime_capabilities

PROJECT = Path(__file__).parents[2]


def test_the_page_is_current() -> None:
    assert (PROJECT / reference.TARGET).read_text() == reference.page(), "run python -m whit.formats.app.reference"


def test_every_honoured_key_is_on_it() -> None:
    page = reference.page()
    assert [key for key in KEYS if f"| `{key}` |" not in page] == []


def test_capabilities_are_those_that_the_runtime_gives() -> None:
    from whit.formats.app.capabilities import KNOWN

    assert frozenset(runtime_capabilities.KNOWN) == KNOWN


def test_the_page_of_machines_is_current() -> None:
    said = machine_reference.page()
    assert (PROJECT / machine_reference.TARGET).read_text() == said, "run python -m whit.formats.machine.reference"
