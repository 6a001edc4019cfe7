"""Python closure: the part of a closure that follows Python: programs, modules, their data, metadata and plug-ins."""

from __future__ import annotations

import configparser
import posixpath
import re
from collections.abc import Sequence
from typing import Protocol

from whit.image.linking import imports
from whit.image.linking.imports import Library
from whit.image.linking.index import Index
from whit.image.linking.scans import Scans
from whit.image.rootfs.tree import Entry
from whit.image.sources import bytecode

_TARGET = re.compile(r"[A-Za-z_][\w.]*(:[\w.()]+)?")
_CODE = re.compile(r".*\.(py|pyc|pyi|pyx|pxd|c|h|cc|cpp|hpp|rs|so)")
_TESTS = re.compile(r".*/(tests?|testing|__pycache__)/.*")
_METADATA = ("METADATA", "entry_points.txt", "top_level.txt")


class Reach(Protocol):
    def __call__(self, path: str, reason: str, via: str, *, follow: bool = True, imported: bool = False) -> bool: ...


class PythonClosure:
    def __init__(self, index: Index, library: Library, reach: Reach, working_dir: str, scans: Scans) -> None:
        self.index = index
        self.library = library
        self.reach = reach
        self.working_dir = working_dir
        self.scans = scans
        self._mains: set[str] = set()
        self._started = False
        self._asked: set[str] = set()
        self._texts: set[str] = set()
        self._metadata: dict[str, str] | None = None
        self._groups: list[tuple[str, str, str]] = []
        self._packages: set[str] = set()

    # ---- where it starts ----

    def command(self, argv: Sequence[str], program: str) -> None:
        """python3 [options] (-m MODULE | -c CODE | FILE) arguments."""
        via = program.strip("/")
        for index, word in enumerate(argv[1:], start=1):
            following = argv[index + 1] if index + 1 < len(argv) else ""
            if word == "-m":
                self.main_module(following, via)
                self.words(argv[index + 2 :], via)
                return
            if word == "-c":
                self._scanned(following.encode(), "__main__", via, package=False, standard=False, main=True)
                return
            if not word.startswith("-"):
                self.reach(posixpath.join("/", self.working_dir, word), "named in the command", via)
                self.words(argv[index + 1 :], via)
                return

    def main_module(self, name: str, via: str) -> None:
        self._mains |= {name, f"{name}.__main__"}
        self.module(name, f"module {name} of the command", via)
        self.module(f"{name}.__main__", f"module {name} of the command", via)

    def words(self, words: Sequence[str], via: str) -> None:
        """Arguments such as app:app and package.Class, as servers take them."""
        for word in words:
            if _TARGET.fullmatch(word) and (name := self._outside(word)):
                self.module(name, "named in the command:", via)

    def _outside(self, word: str) -> str:
        found = self.library.named(word)
        module = self.library.find(word)
        own = module and not module.path.startswith(self.library.standard)
        return found or (word if own else "")

    def interpreter(self, entry: Entry) -> None:
        """Once: what it imports whatever the program."""
        if not self._started:
            self._started = True
            for name in self.library.startup():
                self.module(name, "start of the interpreter", entry.path)

    # ---- what is followed ----

    def module(self, name: str, reason: str, via: str) -> None:
        """A module with the packages that it is in; not being there is no mistake: imports may be optional."""
        if name in self._asked:
            return
        self._asked.add(name)
        parts = name.split(".")
        for length in range(1, len(parts) + 1):
            found = self.library.find(".".join(parts[:length]))
            if found is not None:
                self.reach(found.path, reason, via, imported=True)
                self._cache(found.path, found.path)  # also of a link, beside which its cache stands

    def script(self, entry: Entry) -> None:
        self._scanned(entry.data(), "__main__", entry.path, package=False, standard=False, main=True)

    def is_module(self, entry: Entry) -> bool:
        """In a place where the interpreter looks for modules; also those beside a script that is run."""
        return entry.path.endswith(".py") and (bool(self.library.name_of(entry.path)) or entry.head(2) != b"#!")

    def source(self, entry: Entry) -> None:
        """A module that was reached: what it imports, its byte code, and what belongs to its distribution."""
        name = self.library.name_of(entry.path)
        self._cache(entry.path, entry.path)
        standard = entry.path.startswith(self.library.standard)
        package = entry.path.endswith("/__init__.py")
        main = name in self._mains or not name
        self._scanned(entry.data(), name, entry.path, package=package, standard=standard, main=main)
        if name == "sysconfig":  # it makes the name of this module up
            for path in self.index.glob(f"{self.library.standard[0]}/_sysconfigdata_*.py"):
                self.reach(path, "import by a name that is made up", entry.path)
        if not standard:
            self._belongings(entry)

    def _cache(self, source: str, via: str) -> None:
        cache = bytecode.cache_path(source)
        if cache in self.index.entries:
            self.reach(cache, "byte code", via, follow=False)

    def extension(self, entry: Entry, texts: set[str]) -> None:
        """A module in C."""
        name = posixpath.basename(entry.path).partition(".")[0]
        if any(entry.path.startswith(f"{root}/") for root in self.library.path):
            for imported in sorted(self.library.from_extension(name, texts)):
                self.module(imported, f"import {imported}", entry.path)
            if not entry.path.startswith(self.library.standard):
                self._belongings(entry)

    def _scanned(self, source: bytes, name: str, via: str, *, package: bool, standard: bool, main: bool) -> None:
        seen = self.scans.scan(source, name, package=package, standard=standard, main=main)
        for imported in sorted(seen.imports):
            if standard and self.library.aside(name, imported):
                continue
            self.module(imported, f"import {imported}", via)
        for start in sorted(seen.starts):
            for found in self.library.beginning(start):
                self.module(found, f"import of {start}…", via)
        if not standard:
            for text in imports.dotted(seen.texts, name, package=package):
                if found := self.library.named(text):
                    self.module(found, f"names {text}", via)
        for codec in imports.codecs(seen.texts):
            self.module(codec, "codec named in", via)
        self._texts |= seen.texts
        self._plug_ins()

    # ---- what belongs to a distribution ----

    def _belongings(self, entry: Entry) -> None:
        """Metadata of the distribution, and data beside the modules of a package."""
        root = next((root for root in self.library.path if entry.path.startswith(f"{root}/")), "")
        below = entry.path[len(root) + 1 :].split("/")
        if entry.origin in self._packages or not root:
            return
        self._packages.add(entry.origin or entry.path)
        self._distribution(entry)
        if len(below) > 1:
            for data in self.index.below(f"{root}/{below[0]}"):
                if data.origin == entry.origin and not _CODE.fullmatch(data.path) and not _TESTS.fullmatch(data.path):
                    self.reach(data.path, "data of", entry.path, follow=False)

    def _distribution(self, entry: Entry) -> None:
        if self._metadata is None:
            found = (path for path in self.index.entries if path.endswith(".dist-info/METADATA"))
            self._metadata = {self.index.entries[path].origin: posixpath.dirname(path) for path in found}
        directory = self._metadata.get(entry.origin)
        if not entry.origin or directory is None:
            return
        for name in _METADATA:
            path = f"{directory}/{name}"
            if path in self.index.entries:
                self.reach(path, "metadata of", entry.path, follow=False)
        points = self.index.entries.get(f"{directory}/entry_points.txt")
        if points is not None:
            self._groups += [(group, target, points.path) for group, target in _entry_points(points.data())]
            self._plug_ins()

    def _plug_ins(self) -> None:
        """Entry points of groups that some module names."""
        wanted = [item for item in self._groups if item[0] in self._texts]
        self._groups = [item for item in self._groups if item[0] not in self._texts]
        for group, target, path in wanted:
            self.module(target.partition(":")[0].strip(), f"entry point of {group} in", path)


def _entry_points(data: bytes) -> list[tuple[str, str]]:
    """Groups and targets (packaging.python.org/specifications/entry-points)."""
    parser = configparser.ConfigParser(delimiters=("=",), interpolation=None)
    parser.optionxform = str  # type: ignore[assignment]
    try:
        parser.read_string(data.decode(errors="replace"))
    except configparser.Error:
        return []
    groups = [name for name in parser.sections() if name not in ("console_scripts", "gui_scripts")]
    return [(group, target) for group in groups for target in parser[group].values()]
