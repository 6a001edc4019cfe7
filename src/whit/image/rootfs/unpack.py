"""Unpack: a layer's blob becomes a directory that overlayfs takes as a lower layer.

Whatever the archive says, nothing is made outside of the destination: it is a fresh directory that nobody else writes
to, and each component of each path must be a directory made by this archive. Whiteouts become those of overlayfs
(image-spec layer.md; kernel Documentation/filesystems/overlayfs.rst). Device nodes below /dev are left out, since
every runtime mounts its own /dev over them; elsewhere they are refused. Owners are kept as root, ignored otherwise.

Runs as a process of its own: `python -m whit.image.rootfs.unpack` takes one request as JSON on standard input.
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import json
import os
import resource
import shutil
import stat
import subprocess
import sys
import tarfile
import tempfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import IO, Protocol

from whit.base.errors import DigestMismatch, HostileArchive, Unavailable, WhitError, report_of, system_failure
from whit.image.rootfs.tree import clean_path
from whit.tools import process

_CHUNK = 1 << 20
_MEMORY = 512 << 20
"""Bytes of address space: the limit of what a header can make the parser read."""
BOMB_FROM, BOMB_RATIO = 256 << 20, 200
"""From how many bytes on a layer may not be so many times as large as it is compressed."""
_WHITEOUT = ".wh."
_OPAQUE = ".wh..wh..opq"
_XATTR = "SCHILY.xattr."
_KEPT_XATTRS = ("security.capability", "user.")


class _Readable(Protocol):
    def read(self, size: int = -1, /) -> bytes: ...


def unpack(blob: Path, compression: str, diff_id: str, destination: Path) -> bool:
    """Unpack `blob` into `destination`, which appears complete or not at all. False if it is there already.

    Raises:
        HostileArchive: it leads outside, or is damaged.
        DigestMismatch: it is not what its image says.
    """
    if destination.exists():
        return False
    destination.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=destination.parent, prefix=".new-"))
    try:
        with _opened(blob, compression) as stream:
            digest = _extract(stream, temporary, _Room(blob, temporary))
        if digest != diff_id:
            raise DigestMismatch(
                f"layer {blob.name[:12]} unpacks to {digest}, its image says {diff_id}",
                hint="fetch again",
                code="layer-digest",
            )
        return _move(temporary, destination)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def decompress(blob: Path, compression: str, destination: Path) -> None:
    """The plain tar of a layer, as a file. Raises HostileArchive if it is damaged or does not fit."""
    room = _Room(blob, destination.parent)
    try:
        with _opened(blob, compression) as stream, destination.open("wb") as output:
            while data := stream.read(_CHUNK):
                room.take(len(data))
                output.write(data)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise HostileArchive(f"the layer is not readable: {error}", code="archive-compression") from error


class _Room:
    """How much a layer may be unpacked: no more than is free, and than anything but a bomb would be."""

    def __init__(self, blob: Path, directory: Path) -> None:
        self.free = shutil.disk_usage(directory).free
        self.likely = max(BOMB_FROM, blob.stat().st_size * BOMB_RATIO)

    def take(self, size: int) -> None:
        """Raises HostileArchive."""
        self.free -= size
        self.likely -= size
        if self.free < 0:
            hint = "free some space, or do not use the image"
            raise HostileArchive("the layer is larger than the free space", hint=hint, code="archive-too-large")
        if self.likely < 0:
            text = f"the layer is more than {BOMB_RATIO} times as large as it is compressed"
            raise HostileArchive(text, hint="do not use the image: it is a bomb, or all zeros", code="archive-bomb")


def _move(temporary: Path, destination: Path) -> bool:
    try:
        temporary.rename(destination)
    except OSError:
        if destination.exists():  # another process was faster; layers of the same id are equal
            return False
        raise
    return True


@contextlib.contextmanager
def _opened(blob: Path, compression: str) -> Iterator[_Readable]:
    if compression == "gzip":
        with gzip.open(blob, "rb") as packed:
            yield packed
    elif compression == "zstd":
        with _zstd(blob) as unpacked:
            yield unpacked
    else:
        with blob.open("rb") as plain:
            yield plain


@contextlib.contextmanager
def _zstd(blob: Path) -> Iterator[IO[bytes]]:
    if not shutil.which("zstd"):
        raise Unavailable("the layer is compressed with zstd, which is not installed", hint="apt-get install zstd")
    reader, writer = os.pipe()
    child = process.start(["zstd", "-dcq", str(blob)], stdout=writer, stderr=subprocess.DEVNULL)
    os.close(writer)
    try:
        with os.fdopen(reader, "rb") as unpacked:
            yield unpacked
    finally:
        child.kill()
        child.wait()


def _extract(stream: _Readable, root: Path, room: _Room) -> str:
    hashing = _Hashing(stream, room)
    unpacker = _Unpacker(root)
    try:
        with tarfile.open(fileobj=hashing, mode="r|", bufsize=_CHUNK) as tar:  # type: ignore[call-overload]
            for member in tar:
                unpacker.add(tar, member)
        while hashing.read(_CHUNK):
            pass
    except (tarfile.TarError, EOFError, gzip.BadGzipFile, ValueError, MemoryError) as error:
        raise HostileArchive(
            f"the layer is not a readable tar: {error or type(error).__name__}", code="archive-unreadable"
        ) from error
    finally:
        unpacker.finish()
    return f"sha256:{hashing.hash.hexdigest()}"


class _Hashing:
    """Hashes what is read through it, and stops where the room ends."""

    def __init__(self, stream: _Readable, room: _Room) -> None:
        self.stream = stream
        self.room = room
        self.hash = hashlib.sha256()

    def read(self, size: int = -1) -> bytes:
        data = self.stream.read(size)
        self.room.take(len(data))
        self.hash.update(data)
        return data


class _Unpacker:
    """Knows each path that was made, so that no look-up ever follows a link."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
        self.owners = os.geteuid() == 0
        self.made = {"": "directory"}
        self.times: dict[str, float] = {}
        self.whiteouts: list[str] = []
        root.chmod(0o755)

    def add(self, tar: tarfile.TarFile, member: tarfile.TarInfo) -> None:
        path = clean_path(member.name, "layer")
        name = PurePosixPath(path).name
        if name.startswith(_WHITEOUT):
            self._whiteout(path, name)
        elif member.isdir():
            self._directory(path, member)
        elif not path:
            raise HostileArchive("layer: its root is not a directory", code="archive-root")
        elif member.ischr() or member.isblk():
            self._device(path)
        else:
            self._make_way(path)
            self._other(tar, path, member)

    def _other(self, tar: tarfile.TarFile, path: str, member: tarfile.TarInfo) -> None:
        if member.isreg() and not member.issparse():
            self._file(tar, path, member)
        elif member.issym():
            os.symlink(member.linkname, path, dir_fd=self.fd)
            self._made(path, "symlink", member)
        elif member.islnk():
            self._hard_link(path, member)
        elif member.isfifo():
            os.mkfifo(path, dir_fd=self.fd)
            self._made(path, "fifo", member)
        else:
            raise HostileArchive(
                f"layer: {path} is of the unsupported type {member.type!r}", code="archive-special-file"
            )

    def _file(self, tar: tarfile.TarFile, path: str, member: tarfile.TarInfo) -> None:
        source = tar.extractfile(member)
        assert source is not None
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600, dir_fd=self.fd)
        with os.fdopen(fd, "wb", buffering=0) as output:
            left = member.size
            while left:
                data = source.read(min(left, _CHUNK))  # of an archive that ends within it, tarfile raises ReadError
                output.write(data)
                left -= len(data)
            self._dress_file(fd, path, member)
        self.made[path] = "file"

    def _dress_file(self, fd: int, path: str, member: tarfile.TarInfo) -> None:
        if self.owners:
            os.fchown(fd, member.uid, member.gid)
        os.fchmod(fd, stat.S_IMODE(member.mode))
        self._xattrs(path, member)
        os.utime(fd, (member.mtime, member.mtime))

    def _hard_link(self, path: str, member: tarfile.TarInfo) -> None:
        target = clean_path(member.linkname, "layer")
        if self.made.get(target, "directory") == "directory":
            raise HostileArchive(
                f"layer: {path} is a hard link to {target!r}, which is no file that came before it",
                code="archive-hard-link",
            )
        os.link(target, path, src_dir_fd=self.fd, dst_dir_fd=self.fd, follow_symlinks=False)
        self.made[path] = self.made[target]

    def _directory(self, path: str, member: tarfile.TarInfo) -> None:
        if self.made.get(path) != "directory":
            self._make_way(path)
            os.mkdir(path, 0o755, dir_fd=self.fd)
        self._made(path, "directory", member)
        self.times[path] = member.mtime

    def _made(self, path: str, kind: str, member: tarfile.TarInfo) -> None:
        """Owner before mode: the kernel clears set-user-ID bits when the owner changes."""
        self.made[path] = kind
        name = path or "."
        if self.owners:
            os.chown(name, member.uid, member.gid, dir_fd=self.fd, follow_symlinks=False)
        if kind != "symlink":
            os.chmod(name, stat.S_IMODE(member.mode), dir_fd=self.fd)
        self._xattrs(path, member)
        if kind != "directory":
            os.utime(name, (member.mtime, member.mtime), dir_fd=self.fd, follow_symlinks=False)

    def _xattrs(self, path: str, member: tarfile.TarInfo) -> None:
        for key, value in member.pax_headers.items():
            name = key.removeprefix(_XATTR)
            if name != key and name.startswith(_KEPT_XATTRS) and (self.owners or name.startswith("user.")):
                self._set_xattr(path, name, value.encode("utf-8", "surrogateescape"))

    def _set_xattr(self, path: str, name: str, value: bytes) -> None:
        os.setxattr(self.root / path, name, value, follow_symlinks=False)

    def _make_way(self, path: str) -> None:
        """Make the directories above `path` that are missing, and remove what stands at `path`."""
        self._parents(path)
        kind = self.made.pop(path, "")
        if kind == "directory":
            shutil.rmtree(path, dir_fd=self.fd)
            for below in [other for other in self.made if other.startswith(path + "/")]:
                del self.made[below]
        elif kind:
            os.unlink(path, dir_fd=self.fd)

    def _parents(self, path: str) -> None:
        parent = path.rpartition("/")[0]
        if self.made.get(parent) == "directory":
            return
        if parent in self.made:
            raise HostileArchive(
                f"layer: {path} goes through {parent}, a {self.made[parent]}",
                hint="do not use this image",
                code="archive-through-link",
            )
        self._parents(parent)
        os.mkdir(parent, 0o755, dir_fd=self.fd)
        self.made[parent] = "directory"

    def _device(self, path: str) -> None:
        if not path.startswith("dev/"):
            raise HostileArchive(
                f"layer: {path} is a device node outside of /dev",
                hint="build the image without it",
                code="archive-device",
            )

    def _whiteout(self, path: str, name: str) -> None:
        parent = path.rpartition("/")[0]
        hidden = name.removeprefix(_WHITEOUT)
        if name == _OPAQUE:
            self._parents(path)
            self._set_xattr(parent, "trusted.overlay.opaque", b"y")
        elif hidden in ("", ".", ".."):
            raise HostileArchive(f"layer: the whiteout {path} names no file", code="archive-whiteout")
        elif not hidden.startswith(_WHITEOUT):  # other .wh..wh. names are notes of aufs to itself
            self._parents(path)
            self.whiteouts.append(f"{parent}/{hidden}".lstrip("/"))

    def finish(self) -> None:
        """A whiteout hides what lower layers have, not what this one brings. Times come last: work changes them."""
        for path in self.whiteouts:
            kind = self.made.get(path)
            if kind == "directory":
                self._set_xattr(path, "trusted.overlay.opaque", b"y")
            elif kind is None and self.made.get(path.rpartition("/")[0]) == "directory":
                os.mknod(path, 0o600 | stat.S_IFCHR, os.makedev(0, 0), dir_fd=self.fd)
                self.made[path] = "whiteout"
        for path, mtime in self.times.items():
            if self.made.get(path) == "directory":
                os.utime(path or ".", (mtime, mtime), dir_fd=self.fd)
        os.close(self.fd)


def main() -> int:
    """Answer one request: {"blob", "compression", "diff_id", "destination"}; errors as JSON on standard output."""
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
    os.umask(0o022)
    request = json.load(sys.stdin)
    try:
        unpack(Path(request["blob"]), request["compression"], request["diff_id"], Path(request["destination"]))
    except WhitError as error:
        print(json.dumps(report_of(error)))
        return 1
    except OSError as error:
        print(json.dumps(report_of(system_failure("unpack", error))))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
