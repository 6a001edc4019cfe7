"""Both commands of the README on a machine that has nothing but a minimal Debian 12."""

from __future__ import annotations

import json
import os
import secrets
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.bare import BareMachine

pytestmark = [pytest.mark.machine, pytest.mark.network, pytest.mark.slow, pytest.mark.timeout(5400)]


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BareMachine]:
    with BareMachine(Path(tmp_path_factory.mktemp("bare")), secrets.token_hex(2)) as machine:
        yield machine


def test_up_brings_the_shop_up(bare: BareMachine, record_number: Callable[[str, object], None]) -> None:
    began = time.monotonic()
    bare.run("./whit up examples/shop")
    record_number("bare machine: first `./whit up examples/shop`, seconds", round(time.monotonic() - began, 1))
    placed = bare.run("/usr/bin/python3 examples/shop/place-orders")
    assert placed.stdout.splitlines()[-1] == "3 orders in all, 6 teapots sold"


def test_second_up_changes_nothing(bare: BareMachine, record_number: Callable[[str, object], None]) -> None:
    before = bare.run("./whit --json ps shop").stdout
    began = time.monotonic()
    again = bare.run("./whit --json up examples/shop")
    record_number("bare machine: second `./whit up examples/shop`, seconds", round(time.monotonic() - began, 2))
    assert json.loads(again.stdout)["changed"] is False
    pids = [
        [(i["instance"], i["pid"]) for i in json.loads(text)] for text in (before, bare.run("./whit --json ps").stdout)
    ]
    assert pids[0] == pids[1]


def test_down_and_clean_leave_nothing(bare: BareMachine) -> None:
    bare.run("./whit down shop && ./whit doctor --clean --yes")
    left = bare.run("ls -d /run/whit/* /sys/fs/bpf/whit/* 2>/dev/null; ip -o link; nft list tables", check=False).stdout
    assert "whit" not in left
    assert "w-whit" not in left


@pytest.mark.skipif(not os.environ.get("WHIT_TEST_FULL"), reason="repeats the whole run in the bare root: --full only")
def test_the_tests_pass_there_too(bare: BareMachine) -> None:
    bare.run("./whit test --deselect tests/e2e/test_bare_machine.py", timeout=5000)
