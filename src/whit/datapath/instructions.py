"""The few BPF programs that are written by hand: to ask whether the kernel takes them, and where four words are all.

Format of an instruction: Documentation/bpf/standardization/instruction-set.rst.
"""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager

from whit.datapath import libbpf

SCHED_CLS = 3
CGROUP_SOCK_ADDR = 18
"""enum bpf_prog_type."""

_INSTRUCTION = struct.Struct("<BBhi")
_CALL, _EXIT, _MOVE = 0x85, 0x95, 0xB7
_BPF_REDIRECT, _BPF_REDIRECT_PEER = 23, 155


def _move(register: int, value: int) -> bytes:
    return _INSTRUCTION.pack(_MOVE, register, 0, value)


_END = _INSTRUCTION.pack(_EXIT, 0, 0, 0)
PASS_ON = _move(0, -1) + _END
"""TC: the next program decides."""
ALLOW = _move(0, 1) + _END
"""Cgroup socket address: the call goes on as it is."""
REDIRECT_PEER = _move(1, 1) + _move(2, 0) + _INSTRUCTION.pack(_CALL, 0, 0, _BPF_REDIRECT_PEER) + _END


def redirect_to(ifindex: int) -> bytes:
    """TC: out by another link of the namespace, whatever it is."""
    return _move(1, ifindex) + _move(2, 0) + _INSTRUCTION.pack(_CALL, 0, 0, _BPF_REDIRECT) + _END


@contextmanager
def loaded(kind: int, instructions: bytes, attach_type: int = 0) -> Iterator[int]:
    """A descriptor of the loaded program. Raises SystemCallError if the kernel does not take it."""
    options = libbpf.ProgLoadOptions(sz=ctypes.sizeof(libbpf.ProgLoadOptions), expected_attach_type=attach_type)
    count = len(instructions) // _INSTRUCTION.size
    program = libbpf.call("bpf_prog_load", kind, b"whit_probe", b"GPL", instructions, count, ctypes.byref(options))
    try:
        yield program
    finally:
        os.close(program)
