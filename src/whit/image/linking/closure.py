"""Closure: which files of a tree the entry points reach, each with how and from which other file. Pure.

Followed are: interpreters and libraries of ELF files, libraries that they say or seem to load, paths and programs that
stand in them, interpreters and commands of scripts, paths in configuration files, Python's imports (python_closure.py).
A text that merely looks like a path costs a file too many; what no text names is missed. So the image's own checks have
the last word (prove.py).
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from whit.base.errors import InputError
from whit.image.linking import elf, texts, trim
from whit.image.linking.imports import Library
from whit.image.linking.index import Index
from whit.image.linking.python_closure import PythonClosure
from whit.image.linking.scans import Scans
from whit.image.rootfs.tree import Entry
from whit.image.sources import bytecode

SYSTEM = (
    *("etc/passwd", "etc/group", "etc/nsswitch.conf", "etc/host.conf", "etc/os-release", "etc/protocols"),
    *("etc/services", "etc/mime.types", "bin", "sbin", "lib", "lib64", "var/run", "var/lock"),
)
"""What any program may ask the C library for, and links that paths go through."""
OBSERVED = "opened in the observed run"
CERTIFICATES = ("etc/ssl/certs/ca-certificates.crt", "etc/ssl/openssl.cnf", "usr/lib/ssl/*")
_TLS = re.compile(r"lib(ssl|crypto|gnutls|nss3)\.so")
_SHELLS = ("sh", "dash", "bash", "ash")
_LIBRARIES_OF: dict[str, re.Pattern[str]] = {
    "perl": re.compile(r"usr/(share|lib/[^/]+)/perl(-base|5)?(/.*)?|etc/perl/.*"),
    "node": re.compile(r"usr/(share|lib)/(nodejs|node_modules)/.*"),
    "ruby": re.compile(r"(usr|var)/lib/ruby/.*"),
}
"""Languages whose imports are not followed: their libraries stay whole."""
_PYTHON = re.compile(r"python3(\.\d+)?")
_DEFAULT_SEARCH = ("usr/local/lib", "usr/lib", "lib", "usr/lib64", "lib64")
_GENERIC = re.compile(
    r"(usr(/local)?/)?(s?bin|lib|lib64|share|libexec)|usr/lib/python3.*|usr/local/lib/python3.*|etc|etc/ssl"
    r"|usr/lib/[^/]*-linux-gnu[^/]*|var/(lib|log|cache|run|spool|tmp)|usr/share/(doc|locale|man|zoneinfo)|usr/lib/[^/]+/gconv"
)
_CODE = (elf.MAGIC, b"BC\xc0\xde")
"""Objects of the machine and of LLVM: no data, even where data is."""
_MODULES: dict[str, tuple[str, ...]] = {
    "postgres": ("usr/lib/postgresql/*/lib/[!l]*.so", "usr/lib/postgresql/*/lib/l[!l]*.so")
}
"""Servers that load what a query names: their modules, but for the compiler of queries, which brings all of LLVM."""
_OWN_ROOTS = ("srv", "opt", "app", "data", "home")


@dataclass(frozen=True)
class Wanted:
    """Where linking starts: commands, with the environment and directory they run in, and paths that are to stay."""

    commands: tuple[tuple[str, ...], ...]
    search: tuple[str, ...]
    working_dir: str = ""
    stay: Mapping[str, str] = field(default_factory=dict)
    """Paths with the reason why they stay whatever is reached."""
    observed: tuple[str, ...] = ()
    """Paths that were opened in a run: what else is reached with them."""
    excluded: Callable[[str], bool] = lambda path: False
    scans: Scans = field(default_factory=Scans)


class Closure:
    """`reached` says for each path how it was reached, and from which other (empty: it is a root).

    `files` are those of them that something opens by their paths; the others are modules that are only imported.
    """

    def __init__(self, index: Index, wanted: Wanted) -> None:
        self.index = index
        self.wanted = wanted
        self.reached: dict[str, tuple[str, str]] = {}
        self.files: set[str] = set()
        self._queue: list[str] = []
        self._elves: dict[str, elf.Needs | None] = {}
        extra = (wanted.working_dir.strip("/"),) if wanted.working_dir.strip("/") else ()
        self.python = PythonClosure(index, Library(index, extra), self.reach, wanted.working_dir, wanted.scans)

    def walk(self) -> dict[str, tuple[str, str]]:
        for path in SYSTEM:
            self.reach(path, "part of every system", "", follow=False)
        for path, reason in self.wanted.stay.items():
            self.reach(path, reason, "")
        for command in self.wanted.commands:
            self._command(command)
        self._follow()
        for path in self.wanted.observed:
            self._observed(path)
        return self.reached

    def _follow(self) -> None:
        while self._queue:
            self._explore(self.index.entries[self._queue.pop(0)])

    def _observed(self, path: str) -> None:
        """A file that was opened, links beside it that lead there, and the source of byte code, which must exist."""
        if path not in self.index.entries or path in self.reached:
            return
        self.reach(path, OBSERVED, "")
        for other in self.index.children(posixpath.dirname(path)):
            if self.index.entries[other].kind == "symlink" and self._leads(other, path):
                self.reach(other, OBSERVED, "")
        if source := bytecode.source_path(path):
            self.reach(source, OBSERVED, "", imported=True)
        self._follow()

    def _leads(self, link: str, path: str) -> bool:
        found = self.index.find(link)
        return found is not None and found.entry.path == path

    def reach(self, path: str, reason: str, via: str, *, follow: bool = True, imported: bool = False) -> bool:
        """Take a path, with the links that lead to it. False if there is nothing, or it is excluded."""
        found = self.index.find(path)
        if found is None:
            return self._dangling(path, reason, via)
        if self.wanted.excluded(found.entry.path):
            return False
        for link in found.links:
            self.reached.setdefault(link, (reason, via))
        entry = found.entry
        if not imported:
            self.files.add(entry.path)
        if entry.path not in self.reached:
            self.reached[entry.path] = (reason, via)
            if entry.kind == "file" and follow:
                self._queue.append(entry.path)
        return True

    def _dangling(self, path: str, reason: str, via: str) -> bool:
        """A link whose target the instance mounts, as /etc/mtab."""
        entry = self.index.entries.get(path.strip("/"))
        if entry is not None and entry.kind == "symlink":
            self.reached.setdefault(entry.path, (reason, via))
        return entry is not None

    # ---- commands ----

    def _command(self, argv: Sequence[str]) -> None:
        if not argv:
            return
        program = self.program(argv[0])
        if program is None:
            hint = "name a part that brings it, or write its whole path"
            raise InputError(
                f"the image has no program {argv[0]!r}, which has to work in it", hint=hint, code="no-program"
            )
        text = " ".join(argv) if len(" ".join(argv)) < 80 else f"{argv[0]} …"
        self.reach(program, f"command: {text}", "")
        for word in argv[1:]:
            if word.startswith("/") and not word.startswith("/dev/"):
                self._named_path(word, program.strip("/"), "named in the command")
        if _PYTHON.fullmatch(posixpath.basename(program)):
            self.python.command(argv, program)
        else:
            self.python.words(argv[1:], program)
            self._words(argv[1:], program)

    def _words(self, words: Sequence[str], via: str) -> None:
        """`env NAME`, `sh -c TEXT`, `setpriv … NAME`: commands among the arguments of another."""
        for word in words:
            for text in word.split() if " " in word else [word]:
                if re.fullmatch(r"[\w./+-]+", text) and (program := self.program(text)):
                    self.reach(program, "named in the command", via.strip("/"))

    def program(self, name: str) -> str | None:
        """Where a command is found, if at all."""
        if "/" in name:
            path = posixpath.join("/", self.wanted.working_dir, name)
            found = self.index.find(path)
            return path if found and found.entry.kind == "file" else None
        for directory in self.wanted.search:
            path = posixpath.join(directory, name)
            found = self.index.find(path)
            if found and found.entry.kind == "file" and found.entry.mode & 0o111:
                return path
        return None

    # ---- files ----

    def _explore(self, entry: Entry) -> None:
        head = entry.head(4)
        if head == elf.MAGIC:
            self._explore_elf(entry)
        elif self.python.is_module(entry):  # modules of the library may begin with #! too
            self.python.source(entry)
        elif head[:2] == b"#!":
            self._explore_script(entry)
        elif self._is_configuration(entry):
            data = entry.data()
            if texts.is_text(data):
                for path in texts.paths(data):
                    self._named_path(path, entry.path, "named in")

    def _is_configuration(self, entry: Entry) -> bool:
        return entry.path.startswith("etc/") or self.reached[entry.path][0].startswith(("named in", "include"))

    def _explore_script(self, entry: Entry) -> None:
        data = entry.data()
        interpreter = texts.shebang(data)
        for word in interpreter:
            if program := self.program(word):
                self.reach(program, "interpreter", entry.path)
        name = posixpath.basename(interpreter[-1]) if interpreter else ""
        if _PYTHON.fullmatch(name):
            self.python.script(entry)
        elif name in _SHELLS:
            for word in texts.words(data):
                if program := self.program(word):
                    self.reach(program, "command in the script", entry.path)
            for path in texts.shell_paths(data):
                self._named_path(path, entry.path, "named in")

    def _explore_elf(self, entry: Entry) -> None:
        data = entry.data()
        needs = elf.read(data)
        if needs is None:
            return
        if needs.interpreter:
            self.reach(needs.interpreter, "program loader", entry.path)
        for name in needs.libraries:
            self._library(name, needs, entry, f"library {name}")
        found = elf.strings(data)
        for name in sorted({*needs.notes, *elf.library_names(found)} - {needs.soname}):
            self._library(name, needs, entry, f"may load {name}")
        self._strings(found, entry)
        self._nature(entry, found)

    def _library(self, name: str, needs: elf.Needs, entry: Entry, reason: str) -> None:
        if "/" in name:
            self.reach(name, reason, entry.path)
            return
        origin = f"/{posixpath.dirname(entry.path)}"
        own = [path.replace("$ORIGIN", origin).replace("${ORIGIN}", origin) for path in needs.search]
        for directory in [*own, *self._library_directories()]:
            found = self.index.find(posixpath.join(directory, name))
            if found and found.entry.kind == "file" and self._machine(found.entry) == needs.machine:
                self.reach(posixpath.join(directory, name), reason, entry.path)
                return

    def _library_directories(self) -> list[str]:
        triplets = [path for path in self.index.children("usr/lib") if "-linux-gnu" in path]
        return [*triplets, *_DEFAULT_SEARCH]

    def _machine(self, entry: Entry) -> tuple[int, int] | None:
        if entry.path not in self._elves:
            self._elves[entry.path] = elf.read(entry.data())
        needs = self._elves[entry.path]
        return needs.machine if needs else None

    def _strings(self, found: set[str], entry: Entry) -> None:
        """Paths that stand in the program, and programs beside it that it names."""
        beside = {posixpath.basename(path): path for path in self.index.children(posixpath.dirname(entry.path))}
        for text in sorted(found):
            if text.startswith("/") and len(text) > 2:
                self._string_path(text, entry)
            elif text in beside and self._is_program(self.index.entries[beside[text]], entry.origin):
                self.reach(beside[text], "program named in", entry.path)

    def _is_program(self, entry: Entry, origin: str) -> bool:
        return entry.origin == origin and entry.kind == "file" and bool(entry.mode & 0o111)

    def _string_path(self, text: str, entry: Entry) -> None:
        path = text.strip("/")
        found = self.index.find(path)
        if found is None:
            return
        if found.entry.kind == "file":
            self.reach(path, "path named in", entry.path)
        elif found.entry.kind == "directory" and "/" in found.entry.path and not _GENERIC.fullmatch(found.entry.path):
            self.reach(path, "directory named in", entry.path)
            for below in self.index.below(found.entry.path):
                if below.origin == entry.origin and self._is_data(below):
                    self.reach(below.path, f"data in /{found.entry.path}, named in", entry.path, follow=False)

    def _is_data(self, entry: Entry) -> bool:
        return not trim.reason(entry.path) and (entry.kind != "file" or entry.head(4) not in _CODE)

    def _named_path(self, text: str, via: str, reason: str) -> None:
        """A path of a configuration or of a command; a directory stands for what is below it."""
        if any(mark in text for mark in "*?"):
            for path in self.index.glob(text):
                self.reach(path, reason, via)
            return
        found = self.index.find(text)
        if found is None or not self.reach(text, reason, via):
            return
        path = found.entry.path
        specific = path.split("/")[0] in _OWN_ROOTS or (path.count("/") and not _GENERIC.fullmatch(path))
        if found.entry.kind == "directory" and specific:
            for below in self.index.below(path):
                if self._is_data(below):
                    self.reach(below.path, f"below /{path}, {reason}", via)

    def _nature(self, entry: Entry, found: Iterable[str]) -> None:
        """What programs of a kind need besides, and no text in them says."""
        name = posixpath.basename(entry.path)
        if _TLS.match(name):
            for pattern in CERTIFICATES:
                for path in self.index.glob(pattern):
                    self.reach(path, "trusted certificates and settings of", entry.path, follow=False)
        if name.startswith("libc.so"):
            self._name_services(entry)
            for path in [*self.index.glob("usr/lib/locale/C.utf8/*"), *self.index.glob("usr/lib/locale/C.utf8/*/*")]:
                self.reach(path, "locale C.UTF-8, for", entry.path, follow=False)
        if _PYTHON.fullmatch(name):
            self.python.interpreter(entry)
        elif entry.path.endswith(".so"):
            self.python.extension(entry, set(found))
        for pattern in _MODULES.get(name, ()):
            for path in self.index.glob(pattern):
                self.reach(path, "module of", entry.path)
        for language, library in _LIBRARIES_OF.items():
            if re.fullmatch(rf"{language}[\d.]*", name):
                for path in [path for path in self.index.entries if library.fullmatch(path)]:
                    self.reach(path, f"library of {language}", entry.path)

    def _name_services(self, entry: Entry) -> None:
        """Modules of the C library that nsswitch.conf(5) names; files and dns are inside of it."""
        switch = self.index.find("etc/nsswitch.conf")
        if switch is None:
            return
        for service in sorted(set(re.findall(r"(?<=[\s:])[a-z_]+", switch.entry.data().decode(errors="replace")))):
            for path in self.index.glob(f"usr/lib/*-linux-gnu/libnss_{service}.so.2"):
                self.reach(path, f"name service {service}, in", switch.entry.path)
