"""Reading and following logs, against files that are written as conmon writes them."""

from __future__ import annotations

import asyncio
import os
from datetime import datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.instances import Machine
from support.slowness import patient

from whit.base.settings import Settings
from whit.model.instance import ResolvedMount
from whit.model.status import LogLine
from whit.runtime import layout as layouts
from whit.runtime.layout import Layout
from whit.runtime.supervision import logs
from whit.runtime.supervision.logs import Joiner, Tail, keep, prepare, read, utc


class Writer:
    """Writes records, and starts the file anew the way conmon does: by renaming an empty one over it."""

    def __init__(self, layout: Layout) -> None:
        self.layout, self.count = layout, 0
        prepare(layout)

    def write(self, text: str, tag: str = "F", stream: str = "stdout") -> None:
        self.count += 1
        with self.layout.monitored.log.open("a") as file:
            file.write(f"{stamp(self.count)} {stream} {tag} {text}\n")

    def rotate(self) -> None:
        path = self.layout.monitored.log
        unfinished = path.with_suffix(".tmp")
        unfinished.touch()
        unfinished.replace(path)


def stamp(second: int) -> str:
    return f"2026-01-02T03:{second // 60 % 60:02}:{second % 60:02}.123456789+00:00"


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return Layout(Settings(id="t1", run_root=tmp_path / "run", state_root=tmp_path / "state"), "a-b-1")


def texts(found: list[LogLine]) -> list[str]:
    return [line.text for line in found]


def test_times() -> None:
    assert utc("2026-01-02T03:04:05.123456789+00:00") == "2026-01-02T03:04:05.123456789Z"
    assert utc("2026-01-02T03:04:05.123456789+05:30") == "2026-01-01T21:34:05.123456789Z"


def test_parts_are_joined_for_each_stream() -> None:
    joiner = Joiner("i")
    t = stamp(1)
    data = (
        f"{t} stdout P one \n{stamp(2)} stderr P err \n{t} stdout P two \n{t} stderr F end\n{t} stdout F three\n"
        f"{t} stdout F \n{t} stdout P tail\n"
    )
    found = joiner.feed(data.encode())
    assert [(line.stream, line.text, line.time[17:19]) for line in found] == [
        ("stderr", "err end", "02"),
        ("stdout", "one two three", "01"),
        ("stdout", "", "01"),
    ]
    assert texts(joiner.flush()) == ["tail"]
    assert joiner.flush() == []


@given(st.lists(st.text(alphabet=st.characters(exclude_characters="\n", codec="utf-8"))), st.data())
def test_cut_anywhere(lines: list[str], data: st.DataObject) -> None:
    whole = "".join(f"{stamp(1)} stdout F {line}\n" for line in lines).encode()
    cut = data.draw(st.integers(0, len(whole)))
    joiner = Joiner("i")
    assert texts(joiner.feed(whole[:cut]) + joiner.feed(whole[cut:]) + joiner.flush()) == lines


def test_a_torn_record_is_shown() -> None:
    joiner = Joiner("i")
    assert texts(joiner.feed(b"2026-01-02T03 std\n") + joiner.flush()) == ["2026-01-02T03 std"]
    assert texts(joiner.feed(f"{stamp(1)} stdout F he".encode()) + joiner.flush()) == ["he"]


def test_endless_lines_are_given_out_in_pieces() -> None:
    joiner, found = Joiner("i"), []
    for _ in range(300):
        found += joiner.feed(f"{stamp(1)} stdout P {'x' * 8192}\n".encode())
    assert sum(len(line.text) for line in found + joiner.flush()) == 300 * 8192
    assert len(found) >= 2


def test_the_last_lines_and_since(layout: Layout) -> None:
    writer = Writer(layout)
    for n in range(1, 1001):
        writer.write(f"{n} {'x' * 300}")
    writer.write("part", tag="P")
    assert [line.split()[0] for line in texts(read(layout, last=3))] == ["999", "1000", "part"]
    assert len(read(layout)) == len(read(layout, last=5000)) == 1001
    assert read(layout, last=0) == []
    assert texts(read(layout, last=700))[0].split()[0] == "302"
    # The clock of the records wraps after an hour: these are those of the last minutes of the first.
    since = datetime.fromisoformat("2026-01-02T03:16:39.123456+00:00")
    assert [line.split()[0] for line in texts(read(layout, since=since))] == ["999", "1000", "part"]


def test_over_rotation(layout: Layout) -> None:
    writer = Writer(layout)
    writer.write("one")
    writer.write("cut ", tag="P")
    keep(layout)
    writer.rotate()
    writer.write("two")
    writer.write("three")
    for _ in range(2):
        assert texts(read(layout)) == ["one", "cut two", "three"]
        keep(layout)
    assert texts(read(layout, last=1)) == ["three"]
    assert len(list(layout.logs.iterdir())) == 3


def test_disk_is_bounded(layout: Layout) -> None:
    writer = Writer(layout)
    for n in range(10):
        writer.write(f"file {n}")
        keep(layout)
        writer.rotate()
    writer.write("file 10")
    keep(layout)
    assert texts(read(layout)) == [f"file {n}" for n in range(11 - logs.KEPT_FILES, 11)]
    assert len({path.stat().st_ino for path in layout.logs.iterdir()}) == logs.KEPT_FILES


def test_a_full_file_is_put_aside_at_a_restart(layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "LOG_FILE_LIMIT", 100)
    writer = Writer(layout)
    writer.write("x" * 60)
    again = Writer(layout)
    again.write("second")
    assert texts(read(layout)) == ["x" * 60, "second"]
    assert layout.monitored.log.stat().st_size < 100


def test_following_over_rotation(layout: Layout) -> None:
    writer = Writer(layout)
    writer.write("old")
    tail = Tail(layout)
    assert texts(tail.past()) == ["old"]
    writer.write("one")
    assert texts(tail.poll()) == ["one"]
    assert tail.poll() == []
    writer.write("two")
    for n in range(2):
        keep(layout)
        writer.rotate()
        writer.write(f"new {n}")
    writer.write("no newline", tag="P")
    assert texts(tail.poll()) == ["two", "new 0", "new 1"]
    assert texts(tail.rest()) == ["no newline"]
    tail.close()


def test_following_over_truncation(layout: Layout) -> None:
    writer = Writer(layout)
    writer.write("a longer line before")
    tail = Tail(layout)
    tail.past()
    os.truncate(layout.monitored.log, 0)
    writer.write("new")
    assert texts(tail.poll()) == ["new"]
    tail.close()


def test_following_what_does_not_exist_yet(layout: Layout) -> None:
    tail = Tail(layout)
    assert tail.past() == []
    assert tail.poll() == []
    Writer(layout).write("first")
    assert texts(tail.poll()) == ["first"]
    tail.close()


async def test_several_instances_in_order(tmp_path: Path) -> None:
    settings = Settings(id="t1", run_root=tmp_path / "run", state_root=tmp_path / "state")
    both = [Layout(settings, name) for name in ("a-x-1", "a-y-1")]
    writers = [Writer(one) for one in both]
    for n in range(1, 7):
        writers[n % 2].count = n - 1
        writers[n % 2].write(str(n))
    assert [line.text async for line in logs.lines(both)] == ["1", "2", "3", "4", "5", "6"]
    assert [line.text async for line in logs.lines(both, last=1)] == ["5", "6"]

    over: set[str] = set()
    found: list[str] = []

    async def follow() -> None:
        async for line in logs.lines(both, last=1, follow=True, ended=lambda one: one.name in over):
            found.append(line.text)

    task = asyncio.create_task(follow())
    await asyncio.sleep(0.1)
    writers[0].count = 7
    writers[0].write("8")
    writers[1].count = 8
    writers[1].write("9", tag="P")
    over.update(one.name for one in both)
    await asyncio.wait_for(task, 30)
    assert found == ["5", "6", "8", "9"]


async def until_kept(layout: Layout) -> None:
    async with asyncio.timeout(patient(60)):
        while layout.monitored.log.stat().st_ino not in {path.stat().st_ino for path in layout.logs.iterdir()}:
            await asyncio.sleep(0.01)


@pytest.mark.machine
@pytest.mark.timeout(60)
async def test_conmon_rotates_and_nothing_is_lost(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A part is written once the files with what was written before it are kept."""
    monkeypatch.setattr(layouts, "LOG_FILE_LIMIT", 400_000)
    monkeypatch.setattr(logs, "KEPT_FILES", 100)
    monkeypatch.setattr(logs, "POLL", 0.01)
    (kept := tmp_path / "kept").mkdir()
    wait = "until test -e /kept/$i; do sleep 0.02; done"
    script = f"for i in $(seq 20); do seq $i$i 200 500000; echo part $i; {wait}; done; printf end"
    mounts = (ResolvedMount(kind="bind", source=kept, target="/kept"),)
    spec = await machine.start("sh", "-c", script, mounts=mounts)
    keeper = asyncio.create_task(logs.keep_all(machine.driver.settings))
    followed = []
    async for line in logs.lines([machine.layout(spec)], follow=True):
        followed.append(line.text)
        if line.text.startswith("part "):
            await until_kept(machine.layout(spec))
            (kept / line.text.removeprefix("part ")).touch()
    assert (await machine.driver.exit_of(spec.name)).code == 0
    keeper.cancel()
    numbers = (range(int(f"{i}{i}"), 500001, 200) for i in range(1, 21))
    wanted = [text for i, part in enumerate(numbers, 1) for text in (*map(str, part), f"part {i}")] + ["end"]
    assert len(logs.files(machine.layout(spec))) >= 5
    assert machine.printed(spec).split("\n") == wanted
    assert followed == wanted
