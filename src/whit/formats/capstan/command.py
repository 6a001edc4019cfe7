"""Command: what OSv's command lines are on Linux."""

from __future__ import annotations

import posixpath

from whit.base.errors import InputError, Place
from whit.formats import shapes
from whit.formats.capstan import keys
from whit.formats.nodes import Value

_STARTERS = {"java.so": keys.JAVA, "java": keys.JAVA, "node": "node", "libnode.so": "node"}
_PYTHONS = ("python", "python2", "python3")


def of_line(value: Value, runtime: str) -> tuple[str, ...]:
    """The words of `cmdline` or `bootcmd`. Raises InputError for what only OSv's kernel understands."""
    argv = shapes.words(value) or ()
    if not argv:
        raise InputError("is no command", place=value.place, hint="write the program and its arguments")
    refuse_osv(argv, value.place)
    name = posixpath.basename(argv[0])
    if name in _STARTERS:
        return (_STARTERS[name], *argv[1:])
    if name in _PYTHONS and runtime == "python":
        return ("python3", *argv[1:])
    if name.endswith(".so"):
        hint = "build it as a program, and name that"
        raise InputError(f"{argv[0]} is a shared object, which only OSv runs", place=value.place, hint=hint)
    return ("/" + argv[0] if "/" in argv[0] and not argv[0].startswith("/") else argv[0], *argv[1:])


def refuse_osv(argv: tuple[str, ...], place: Place) -> None:
    """Options of OSv's kernel, and its way to run several programs. Raises InputError."""
    if argv[0].startswith("--"):
        hint = "leave it out; use env for variables, and whit boot's options for the machine"
        raise InputError(f"{argv[0]} is an option of OSv's kernel", place=place, hint=hint)
    if argv[0] == "runscript":
        raise InputError("runscript is OSv's", place=place, hint="name the program itself")
    for word in argv:
        if word in (";", "&", "&!") or (word.endswith((";", "&!"))):
            hint = "write a whit.yaml with a service for each"
            raise InputError("an image runs one program", place=place, hint=hint)
