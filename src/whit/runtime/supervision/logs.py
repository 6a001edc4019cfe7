"""What an instance printed: reading, following and bounding the logs that conmon writes.

The format is that of the Kubernetes CRI: `TIME STREAM TAG TEXT`, where the tag is F for a full line and P for a part of
one. conmon starts a file anew at its size limit and forgets what was in it. So each file has a second name, `log.1`,
`log.2`, ..., that outlives this; `keep` gives the names and drops the oldest. A file is lost only if two fill up while
nobody calls `keep`.
"""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import itertools
import os
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import IO

from whit.base.settings import Settings
from whit.kernel.thread import in_thread
from whit.model.status import LogLine
from whit.runtime.layout import LOG_FILE_LIMIT, Layout

KEPT_FILES = 3
POLL = 0.2
"""Seconds between two looks at a log that is followed, and at the sizes of all."""
BLOCK = 1 << 20
FIRST_BLOCK = 1 << 16
LINE_LIMIT = 1 << 20
"""Bytes; a longer line is given out in pieces."""


class Joiner:
    """From bytes of the log, cut anywhere, to lines: parts of a line are joined per stream. No I/O."""

    def __init__(self, instance: str) -> None:
        self.instance = instance
        self._rest = b""
        self._parts: dict[str, tuple[str, list[bytes], int]] = {}
        self._last = "1970-01-01T00:00:00.000000000Z"

    def feed(self, data: bytes) -> list[LogLine]:
        """The lines that `data` completes."""
        *records, self._rest = (self._rest + data).split(b"\n")
        return [line for record in records if record for line in self._record(record)]

    def flush(self) -> list[LogLine]:
        """What was printed last, without a newline at its end."""
        found = list(self._record(self._rest)) if self._rest else []
        self._rest = b""
        for stream, (time, parts, _) in sorted(self._parts.items()):
            found.append(self._line(time, stream, parts))
        self._parts.clear()
        return found

    def _record(self, record: bytes) -> Iterator[LogLine]:
        try:
            time_text, stream, tag, text = record.split(b" ", 3)
            time = utc(time_text.decode())
        except ValueError:
            # A write that was cut by a kill. What can be read is shown, not swallowed.
            yield self._line(self._last, "stdout", [record])
            return
        self._last = time
        yield from self._part(time, "stderr" if stream == b"stderr" else "stdout", text, full=tag.startswith(b"F"))

    def _part(self, time: str, stream: str, text: bytes, *, full: bool) -> Iterator[LogLine]:
        began, parts, length = self._parts.pop(stream, (time, [], 0))
        parts.append(text)
        length += len(text)
        if full or length > LINE_LIMIT:
            yield self._line(began, stream, parts)
        else:
            self._parts[stream] = (began, parts, length)

    def _line(self, time: str, stream: str, parts: list[bytes]) -> LogLine:
        text = b"".join(parts).decode(errors="replace")
        return LogLine(
            instance=self.instance, time=time, stream="stderr" if stream == "stderr" else "stdout", text=text
        )


def utc(time: str) -> str:
    """RFC 3339 with nine digits and any offset, as conmon writes it, with the offset taken out: sorts as text."""
    if time.endswith("+00:00"):
        return f"{time[:-6]}Z"
    moment = datetime.fromisoformat(time).astimezone(UTC)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{time[20:29]}Z"


def files(layout: Layout) -> list[Path]:
    """The files of the log, oldest first."""
    found = _kept(layout)
    current = layout.monitored.log
    if _inode(current) is not None and (not found or _inode(found[-1]) != _inode(current)):
        found.append(current)
    return found


def _kept(layout: Layout) -> list[Path]:
    """The second names, oldest first."""
    numbered = [(int(path.suffix[1:]), path) for path in layout.logs.glob("log.*") if path.suffix[1:].isdigit()]
    return [path for _, path in sorted(numbered)]


def _inode(path: Path) -> int | None:
    try:
        return path.stat().st_ino
    except FileNotFoundError:
        return None


def prepare(layout: Layout) -> None:
    """Make the log ready for a monitor that starts. It counts from zero, so a half full file is put aside first."""
    layout.logs.mkdir(parents=True, exist_ok=True)
    current = layout.monitored.log
    with contextlib.suppress(FileNotFoundError):
        if current.stat().st_size > LOG_FILE_LIMIT // 2:
            keep(layout)
            current.unlink()
    current.touch(mode=0o600)
    keep(layout)


def keep(layout: Layout) -> None:
    """Give the current file its second name, and drop the oldest beyond KEPT_FILES."""
    kept = _kept(layout)
    inode = _inode(layout.monitored.log)
    if inode is not None and inode not in map(_inode, kept[-1:]):
        number = int(kept[-1].suffix[1:]) + 1 if kept else 1
        name = layout.logs / f"log.{number}"
        with contextlib.suppress(FileNotFoundError, FileExistsError):
            name.hardlink_to(layout.monitored.log)
            kept.append(name)
    for path in kept[:-KEPT_FILES]:
        path.unlink(missing_ok=True)


async def keep_all(settings: Settings) -> None:
    """Call `keep` for every instance, for ever; cancel to end."""
    while True:
        with contextlib.suppress(FileNotFoundError):
            for directory in settings.logs_dir.iterdir():
                keep(Layout(settings, directory.name))
        await asyncio.sleep(POLL)


def read(layout: Layout, *, last: int | None = None, since: datetime | None = None) -> list[LogLine]:
    """What is in the log now. Reads up to KEPT_FILES files: call it in a thread.

    Args:
        last: Only so many lines from the end.
        since: Only lines printed then or later; must have a time zone.
    """
    with contextlib.closing(Tail(layout)) as tail:
        found = tail.past(last=last, since=since) + tail.joiner.flush()
    return found if last is None else found[-last:] if last > 0 else []


class Tail:
    """Reads one log and then follows it, over rotation and truncation."""

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self.joiner = Joiner(layout.name)
        self._file: int | None = None

    def past(self, *, last: int | None = None, since: datetime | None = None) -> list[LogLine]:
        """The full lines up to now; `poll` goes on from there. Arguments as in `read`."""
        with contextlib.ExitStack() as stack:
            # All are opened at once, so that none disappears while the others are read.
            opened = [stack.enter_context(file) for path in files(self.layout) for file in _opened(path)]
            if not opened:
                return []
            end = os.fstat(opened[-1].fileno()).st_size
            sizes = [*(os.fstat(file.fileno()).st_size for file in opened[:-1]), end]
            found = self._forward(opened, sizes) if last is None else self._backward(opened, sizes, last)
            self._follow(os.dup(opened[-1].fileno()), end)
        earliest = since.astimezone(UTC).isoformat(timespec="microseconds")[:26] if since else ""
        return [line for line in found if line.time >= earliest]

    def poll(self, limit: int = 8) -> list[LogLine]:
        """The full lines that were added since the last call, from at most `limit` MiB."""
        lines: list[LogLine] = []
        for _ in range(limit):
            data = self._read()
            lines += self.joiner.feed(data)
            if not data and not self._advance(lines):
                break
        return lines

    def rest(self) -> list[LogLine]:
        """All there still is, with a last line that no newline ended. The log must be complete."""
        return self.poll(limit=1 << 30) + self.joiner.flush()

    def close(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def _forward(self, opened: Sequence[IO[bytes]], sizes: Sequence[int]) -> list[LogLine]:
        lines: list[LogLine] = []
        for file, size in zip(opened, sizes, strict=True):
            for start in range(0, size, BLOCK):
                lines += self.joiner.feed(os.pread(file.fileno(), min(BLOCK, size - start), start))
        return lines

    def _backward(self, opened: Sequence[IO[bytes]], sizes: Sequence[int], last: int) -> list[LogLine]:
        """The last lines: twice as much is read each time, until one line more than wanted is there."""
        tail, lines = b"", list[LogLine]()
        for block, starts_file in _blocks_backward(opened, sizes):
            tail = block + tail
            self.joiner = Joiner(self.layout.name)
            lines = self.joiner.feed(tail if starts_file else tail.partition(b"\n")[2])
            if len(lines) > last:
                break
        return lines[-last:] if last > 0 else []

    def _read(self) -> bytes:
        if self._file is None:
            return b""
        if os.lseek(self._file, 0, os.SEEK_CUR) > os.fstat(self._file).st_size:
            os.lseek(self._file, 0, os.SEEK_SET)
        return os.read(self._file, BLOCK)

    def _advance(self, lines: list[LogLine]) -> bool:
        """Go on to the file after this one, if there is one: then this one does not grow any more."""
        following = self._following()
        if following is None:
            return False
        # conmon may have written between our last read and the rotation.
        while data := self._read():
            lines += self.joiner.feed(data)
        for file in _opened(following):
            with file:
                self._follow(os.dup(file.fileno()), 0)
        return True

    def _following(self) -> Path | None:
        chain = files(self.layout)
        if self._file is None:
            return chain[0] if chain else None
        inodes = [_inode(path) for path in chain]
        mine = os.fstat(self._file).st_ino
        later = chain[inodes.index(mine) + 1 :] if mine in inodes else chain
        return later[0] if later else None

    def _follow(self, descriptor: int, position: int) -> None:
        self.close()
        os.lseek(descriptor, position, os.SEEK_SET)
        self._file = descriptor


def _opened(path: Path) -> list[IO[bytes]]:
    """The open file, or nothing if it has gone."""
    try:
        return [path.open("rb", buffering=0)]
    except FileNotFoundError:
        return []


def _blocks_backward(opened: Sequence[IO[bytes]], sizes: Sequence[int]) -> Iterator[tuple[bytes, bool]]:
    """Growing blocks from the end of the last file to the start of the first; and whether a block starts its file."""
    length = FIRST_BLOCK
    for file, size in zip(reversed(opened), reversed(sizes), strict=True):
        end = size
        while end > 0:
            start = max(0, end - length)
            yield os.pread(file.fileno(), end - start, start), start == 0
            end, length = start, length * 2


def has_ended(layout: Layout) -> bool:
    """Whether the monitor wrote the exit status: after that nothing is added to the log."""
    return (layout.exits / layout.name).exists()


async def lines(
    layouts: Sequence[Layout],
    *,
    last: int | None = None,
    since: datetime | None = None,
    follow: bool = False,
    ended: Callable[[Layout], bool] = has_ended,
) -> AsyncIterator[LogLine]:
    """The lines of several instances in the order of their times.

    Args:
        last: So many of each instance.
        since: As in `read`.
        follow: Go on until all instances have ended. While lines are waited for, those of different instances are in
            order within POLL seconds.
        ended: Whether the log of an instance is complete.
    """
    if not follow:
        whole = [await in_thread(read, layout, last=last, since=since) for layout in layouts]
        for line in heapq.merge(*whole, key=_time):
            yield line
        return
    tails = [Tail(layout) for layout in layouts]
    try:
        past = [await in_thread(tail.past, last=last, since=since) for tail in tails]
        for line in heapq.merge(*past, key=_time):
            yield line
        while tails:
            # Asked before reading: what is printed in between is read in the next round.
            finished = [tail for tail in tails if ended(tail.layout)]
            fresh = [tail.rest() if tail in finished else tail.poll() for tail in tails]
            for line in sorted(itertools.chain.from_iterable(fresh), key=_time):
                yield line
            for tail in finished:
                tail.close()
                tails.remove(tail)
            if tails:
                await asyncio.sleep(POLL)
    finally:
        for tail in tails:
            tail.close()


def _time(line: LogLine) -> str:
    return line.time
