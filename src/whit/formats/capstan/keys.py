"""Keys of Capstan's files: which are honoured, which are refused and what to write instead; and its runtimes as parts.

The keys are those of capstan's core/template.go, core/package.go and runtime/*.go in 2023. A part of a path in capital
letters stands for any name.
"""

from __future__ import annotations

import re
from collections.abc import Collection

from whit.base.errors import InputError, Place
from whit.formats.app.unsupported import refuse as _refuse
from whit.formats.nodes import Table
from whit.formats.problems import Problems
from whit.model.build import DebianPart, Part

CAPSTANFILE = ("base", "cmdline", "files", "rootfs")
RUN = ("runtime", "config_set", "config_set_default")
PACKAGE = ("name", "title", "author", "version", "require", "created")
SETS: dict[str, tuple[str, ...]] = {
    "native": ("bootcmd", "env"),
    "node": ("main", "node_args", "args", "shell", "env"),
    "python": ("main", "python_args", "args", "shell", "env"),
    "java": ("main", "classpath", "jvm_args", "xms", "xmx", "args", "env"),
}
"""Keys of a config set, by runtime."""

UNSUPPORTED: dict[str, str] = {
    "Capstanfile.build": "nothing is run while an image is linked; run it yourself, and leave the key out",
    "Capstanfile.rpm-base": "OSv's RPM packages are gone; name what is needed with build.parts in whit.yaml",
    "run.yaml.config_set.NAME.base": "packages of OSv are not read; write its keys here",
    "package.yaml.binary": "an image runs one program; name it in meta/run.yaml",
    "package.yaml.platform": "an image is linked for any platform; leave it out",
}

_KERNEL = re.compile(r"(cloudius/)?osv(-base|-loader)?|osv\.(bootstrap|loader|librand|libz)(-.*)?")
"""What OSv's own images and packages do is the kernel's part, or the C library's."""
_RUNTIMES = (
    (re.compile(r"(cloudius/)?(osv[.-])?(open)?j(dk|re)[\d.]*(-.*)?|(cloudius/)?osv[.-]java.*|run-java.*"), "java"),
    (re.compile(r"(cloudius/)?(osv[.-])?node(js)?([\d.-].*)?"), "node"),
    (re.compile(r"(cloudius/)?(osv[.-])?python[\d.]*(-.*)?"), "python"),
)
JAVA = "/usr/lib/jvm/default-java/bin/java"
PARTS: dict[str, tuple[Part, ...]] = {
    "java": (DebianPart(name="default-jre-headless", label="runtime: java"),),
}
NEEDS: dict[str, tuple[str, ...]] = {"node": ("node",), "python": ("python",), "native": ("base",)}


def refuse(table: Table, parent: str, honoured: Collection[str], problems: Problems) -> None:
    """A problem for each key that is not honoured."""
    _refuse(table, parent, honoured, problems, UNSUPPORTED)


def runtime_of(name: str, place: Place) -> str:
    """What a base image or a required package stands for: a runtime, or nothing. Raises InputError."""
    bare = name.partition(":")[0]
    for pattern, runtime in _RUNTIMES:
        if pattern.fullmatch(bare):
            return runtime
    if _KERNEL.fullmatch(bare):
        return ""
    hint = "write a whit.yaml whose build.parts name what it brings"
    raise InputError(f"{name!r} is an image or package of OSv, which is not read", place=place, hint=hint)
