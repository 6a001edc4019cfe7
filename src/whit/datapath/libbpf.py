"""A thin ctypes binding of libbpf.so.1 (1.1 is enough): errors become SystemCallError, what libbpf prints is kept.

Only the calls that this folder needs. The structs are those of <linux/bpf.h> and <bpf/bpf.h>, cut after the last field
that is used: both sides take the size as a version.
"""

from __future__ import annotations

import ctypes
import errno
import functools
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from ctypes import POINTER, c_char_p, c_int, c_size_t, c_uint32, c_uint64, c_void_p
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from whit.base.errors import NotFound, Permanent, SystemCallError, Unavailable

LIBRARY = "libbpf.so.1"
LOG_LINES = 12
"""How much of the verifier's log goes into an error: its end says what is wrong."""

_TEST_RUN_ROOM = 256
"""Bytes by which a program may make a packet longer in a test run."""

Info = TypeVar("Info", bound=ctypes.Structure)

# Result first. Negative results are errors; so are null pointers, with the number in errno.
_PROTOTYPES: dict[str, tuple[Any, ...]] = {
    "bpf_obj_pin": (c_int, c_int, c_char_p),
    "bpf_obj_get": (c_int, c_char_p),
    "bpf_obj_get_info_by_fd": (c_int, c_int, c_void_p, POINTER(c_uint32)),
    "bpf_map_create": (c_int, c_int, c_char_p, c_uint32, c_uint32, c_uint32, c_void_p),
    "bpf_map_lookup_elem": (c_int, c_int, c_char_p, c_void_p),
    "bpf_map_update_elem": (c_int, c_int, c_char_p, c_char_p, c_uint64),
    "bpf_map_delete_elem": (c_int, c_int, c_char_p),
    "bpf_map_lookup_batch": (c_int, c_int, c_void_p, c_void_p, c_void_p, c_void_p, POINTER(c_uint32), c_void_p),
    "bpf_map_update_batch": (c_int, c_int, c_char_p, c_char_p, POINTER(c_uint32), c_void_p),
    "bpf_map_delete_batch": (c_int, c_int, c_char_p, POINTER(c_uint32), c_void_p),
    "bpf_prog_load": (c_int, c_int, c_char_p, c_char_p, c_char_p, c_size_t, c_void_p),
    "bpf_prog_test_run_opts": (c_int, c_int, c_void_p),
    "bpf_link_create": (c_int, c_int, c_int, c_int, c_void_p),
    "bpf_link_update": (c_int, c_int, c_int, c_void_p),
    "bpf_link_detach": (c_int, c_int),
    "bpf_prog_query_opts": (c_int, c_int, c_int, c_void_p),
    "bpf_btf_load": (c_int, c_char_p, c_size_t, c_void_p),
    "libbpf_num_possible_cpus": (c_int,),
    "bpf_object__open_mem": (c_void_p, c_char_p, c_size_t, c_void_p),
    "bpf_object__load": (c_int, c_void_p),
    "bpf_object__close": (None, c_void_p),
    "bpf_object__next_map": (c_void_p, c_void_p, c_void_p),
    "bpf_object__next_program": (c_void_p, c_void_p, c_void_p),
    "bpf_map__name": (c_char_p, c_void_p),
    "bpf_map__fd": (c_int, c_void_p),
    "bpf_map__type": (c_int, c_void_p),
    "bpf_map__key_size": (c_uint32, c_void_p),
    "bpf_map__value_size": (c_uint32, c_void_p),
    "bpf_map__map_flags": (c_uint32, c_void_p),
    "bpf_map__max_entries": (c_uint32, c_void_p),
    "bpf_map__set_max_entries": (c_int, c_void_p, c_uint32),
    "bpf_map__set_pin_path": (c_int, c_void_p, c_char_p),
    "bpf_map__reuse_fd": (c_int, c_void_p, c_int),
    "bpf_map__initial_value": (c_void_p, c_void_p, POINTER(c_size_t)),
    "bpf_program__name": (c_char_p, c_void_p),
    "bpf_program__fd": (c_int, c_void_p),
    "libbpf_set_print": (c_void_p, c_void_p),
}

_PRINT = ctypes.CFUNCTYPE(c_int, c_int, c_char_p, c_void_p)
_LEVEL_WARN = 0
_printed: list[str] = []
_printing = threading.Lock()


class MapInfo(ctypes.Structure):
    """struct bpf_map_info."""

    _fields_ = [
        ("type", c_uint32),
        ("id", c_uint32),
        ("key_size", c_uint32),
        ("value_size", c_uint32),
        ("max_entries", c_uint32),
        ("map_flags", c_uint32),
        ("name", ctypes.c_char * 16),
    ]
    type: int
    id: int
    key_size: int
    value_size: int
    max_entries: int
    map_flags: int


class LinkInfo(ctypes.Structure):
    """struct bpf_link_info. TCX: ifindex, attach type. Cgroup: low and high half of its id, attach type."""

    _fields_ = [
        ("type", c_uint32),
        ("id", c_uint32),
        ("prog_id", c_uint32),
        ("pad", c_uint32),
        ("first", c_uint32),
        ("second", c_uint32),
        ("third", c_uint32),
    ]
    type: int
    id: int
    prog_id: int
    first: int
    second: int
    third: int


class ProgInfo(ctypes.Structure):
    """The head of struct bpf_prog_info."""

    _fields_ = [("type", c_uint32), ("id", c_uint32), ("tag", ctypes.c_uint8 * 8)]
    id: int


class RunOptions(ctypes.Structure):
    """struct bpf_test_run_opts."""

    _fields_ = [
        ("sz", c_size_t),
        ("data_in", c_char_p),
        ("data_out", c_void_p),
        ("data_size_in", c_uint32),
        ("data_size_out", c_uint32),
        ("ctx_in", c_char_p),
        ("ctx_out", c_void_p),
        ("ctx_size_in", c_uint32),
        ("ctx_size_out", c_uint32),
        ("retval", c_uint32),
        ("repeat", c_int),
        ("duration", c_uint32),
        ("flags", c_uint32),
        ("cpu", c_uint32),
        ("batch_size", c_uint32),
    ]


class MapCreateOptions(ctypes.Structure):
    """The head of struct bpf_map_create_opts."""

    _fields_ = [
        ("sz", c_size_t),
        ("btf", c_uint32 * 5),
        ("map_flags", c_uint32),
    ]


class ProgQueryOptions(ctypes.Structure):
    """The head of struct bpf_prog_query_opts."""

    _fields_ = [
        ("sz", c_size_t),
        ("query_flags", c_uint32),
        ("attach_flags", c_uint32),
        ("prog_ids", c_void_p),
        ("prog_cnt", c_uint32),
    ]
    prog_cnt: int


class ProgLoadOptions(ctypes.Structure):
    """The head of struct bpf_prog_load_opts."""

    _fields_ = [
        ("sz", c_size_t),
        ("attempts", c_int),
        ("expected_attach_type", c_uint32),
    ]


@functools.cache
def library() -> ctypes.CDLL:
    """Raises Unavailable if libbpf is not installed."""
    try:
        loaded = ctypes.CDLL(LIBRARY, use_errno=True)
    except OSError as error:
        raise Unavailable(f"{LIBRARY} is not installed", hint="Debian: apt-get install libbpf1") from error
    for name, (result, *arguments) in _PROTOTYPES.items():
        function = getattr(loaded, name)
        function.restype, function.argtypes = result, arguments
    loaded.libbpf_set_print(ctypes.cast(_callback, c_void_p))
    return loaded


def function(name: str) -> Callable[..., Any]:
    """The bare function, for hot paths: the caller looks at the result."""
    found: Callable[..., Any] = getattr(library(), name)
    return found


def call(name: str, *arguments: Any, path: str = "", hint: str = "") -> int:
    """Call a function that returns a number. Raises SystemCallError, which names `path`, if it is negative."""
    result = int(function(name)(*arguments))
    if result < 0:
        raise SystemCallError(name, -result, path, hint=hint)
    return result


def call_for_pointer(name: str, *arguments: Any, path: str = "") -> int:
    """Call a function that returns a pointer. Raises SystemCallError if it is null."""
    ctypes.set_errno(0)
    result = function(name)(*arguments)
    if not result:
        raise SystemCallError(name, ctypes.get_errno(), path)
    return int(result)


class LoadError(Permanent):
    """The kernel refused an object. `log` is all that libbpf and the verifier said."""

    code = "load"

    def __init__(self, origin: str, number: int, log: str) -> None:
        self.errno = number
        self.log = log
        error = SystemCallError("bpf_object__load", number, origin)
        tail = "\n".join(f"  {line}" for line in log.splitlines()[-LOG_LINES:])
        super().__init__(f"{error.message}\n{tail}" if tail else error.message, hint="run `whit doctor`")


def load_object(pointer: int, origin: str) -> None:
    """bpf_object__load. Raises LoadError with the end of the verifier's log."""
    with _printing:
        _printed.clear()
        result = int(function("bpf_object__load")(pointer))
        log = "".join(_printed)
        _printed.clear()
    if result < 0:
        raise LoadError(origin, -result, log)


def _keep_printed(level: int, format_: bytes, arguments: int) -> int:
    """libbpf's print callback. A va_list is passed as a pointer by the calling conventions of x86-64 and arm64."""
    if level != _LEVEL_WARN:
        return 0
    buffer = ctypes.create_string_buffer(1 << 16)
    ctypes.CDLL(None).vsnprintf(buffer, c_size_t(len(buffer)), format_, c_void_p(arguments))
    _printed.append(buffer.value.decode(errors="replace"))
    return 0


_callback = _PRINT(_keep_printed)
"""Must live as long as the library."""


def map_info(descriptor: int) -> MapInfo:
    return _info(descriptor, MapInfo())


def link_info(descriptor: int) -> LinkInfo:
    return _info(descriptor, LinkInfo())


def program_id(descriptor: int) -> int:
    return _info(descriptor, ProgInfo()).id


def _info(descriptor: int, info: Info) -> Info:
    size = c_uint32(ctypes.sizeof(info))
    call("bpf_obj_get_info_by_fd", descriptor, ctypes.byref(info), ctypes.byref(size))
    return info


def pin(descriptor: int, path: Path) -> None:
    """Keep a map, program or link at a path of bpffs; whoever is killed, it stays."""
    call("bpf_obj_pin", descriptor, os.fsencode(path), path=str(path))


def open_pin(path: Path) -> int:
    """A descriptor of what is pinned at `path`, to be closed by the caller.

    Raises:
        NotFound: nothing is pinned there.
    """
    descriptor = int(function("bpf_obj_get")(os.fsencode(path)))
    if descriptor == -errno.ENOENT:
        raise NotFound(f"nothing is pinned at {path}")
    if descriptor < 0:
        raise SystemCallError("bpf_obj_get", -descriptor, str(path))
    return descriptor


@contextmanager
def opened_pin(path: Path) -> Iterator[int]:
    """As `open_pin`, closed at the end of the body."""
    descriptor = open_pin(path)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


class ProgramRun(NamedTuple):
    """What a program made of one packet. `duration_ns` is the mean of all repeats."""

    retval: int
    data_out: bytes
    ctx_out: bytes
    duration_ns: int


def prog_test_run(descriptor: int, data: bytes, *, ctx: bytes = b"", repeat: int = 1) -> ProgramRun:
    """Run a program on a packet (BPF_PROG_TEST_RUN), with `ctx` (a struct __sk_buff) if the kind has one.

    The packet is not reset between repeats.
    """
    room = len(data) + _TEST_RUN_ROOM
    data_out, ctx_out = ctypes.create_string_buffer(room), ctypes.create_string_buffer(max(len(ctx), 1))
    options = RunOptions(
        sz=ctypes.sizeof(RunOptions),
        data_in=data,
        data_out=ctypes.cast(data_out, c_void_p),
        data_size_in=len(data),
        data_size_out=room,
        repeat=repeat,
    )
    if ctx:
        options.ctx_in, options.ctx_out = ctx, ctypes.cast(ctx_out, c_void_p)
        options.ctx_size_in = options.ctx_size_out = len(ctx)
    call("bpf_prog_test_run_opts", descriptor, ctypes.byref(options))
    return ProgramRun(
        ctypes.c_int32(options.retval).value,
        data_out.raw[: options.data_size_out],
        ctx_out.raw[: options.ctx_size_out],
        options.duration,
    )
