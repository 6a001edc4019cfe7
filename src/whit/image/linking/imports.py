"""Imports: which modules a Python program reaches, read from its sources and never by running it.

Counts as reached: what is imported anywhere in a module, also in functions; modules that are named in a call of
import_module or in a text with dots, as frameworks name their plug-ins; what the interpreter itself needs to start;
what well-known extension modules import in C. Type checking blocks, and tests inside of modules, do not count.
"""

from __future__ import annotations

import ast
import encodings
import encodings.aliases
import posixpath
import re
import sys
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field

from whit.image.linking.index import Index

STARTUP = (
    *("abc", "codecs", "encodings.aliases", "encodings.ascii", "encodings.latin_1", "encodings.utf_8"),
    *(
        "encodings.idna",
        "encodings.punycode",
        "encodings.utf_16",
        "encodings.utf_8_sig",
        "encodings.raw_unicode_escape",
    ),
    *("encodings.unicode_escape", "encodings.cp437", "encodings.hex_codec", "encodings.base64_codec", "genericpath"),
    *("importlib.machinery", "importlib.util", "io", "linecache", "os", "posixpath", "runpy", "site", "sitecustomize"),
    *("stat", "traceback", "warnings", "zipimport", "_sitebuiltins", "_collections_abc", "keyword", "heapq"),
)
"""What the interpreter imports by itself, at its start and when something goes wrong."""
FROM_C: dict[str, tuple[str, ...]] = {
    "_asyncio": ("asyncio", "traceback"),
    "_ctypes": ("ctypes",),
    "_datetime": ("_strptime",),
    "_decimal": ("numbers", "collections"),
    "_elementtree": ("copy", "xml.etree.ElementPath"),
    "_json": ("json.decoder",),
    "_pickle": ("copyreg", "_compat_pickle"),
    "_sqlite3": ("sqlite3.dump",),
    "_ssl": ("socket",),
    "_zoneinfo": ("zoneinfo._common", "zoneinfo._tzpath"),
    "time": ("_strptime",),
}
"""What extension modules of the library import; the interpreter's own are in it too."""
_BUILT_IN = ("_datetime", "_pickle", "time")
_TABLES = ("encodings.aliases", "locale", "email.charset")
"""Modules whose texts name codecs that nobody asks for."""
_DOTTED = re.compile(r"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)+(?::[A-Za-z_][\w.]*)?|[A-Za-z_]\w*:[A-Za-z_][\w.]*")
_RELATIVE = re.compile(r"\.{1,2}[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*")
_TESTS = re.compile(r"_?tests?(_.*)?|_test\d*")
_SUFFIX = re.compile(r"\.(?:cpython-3\d+[\w-]*|abi3)\.so$|\.so$")
ASIDE = frozenset(
    {"distutils", "doctest", "idlelib", "lib2to3", "pdb", "pydoc", "pydoc_data", "readline", "rlcompleter", "test"}
    | {"tkinter", "turtle", "unittest"}
)
"""Of the library: what its own modules import only for developers at a prompt, and for its tests."""
_NEVER = ("test", "idlelib", "turtledemo", "tkinter", "turtle", "this", "antigravity", "lib2to3", "pydoc_data")


@dataclass(frozen=True)
class Module:
    """A module's file; a namespace package has none."""

    name: str
    path: str
    package: bool


@dataclass
class Seen:
    """What a module's source says."""

    imports: set[str] = field(default_factory=set)
    texts: set[str] = field(default_factory=set)
    starts: set[str] = field(default_factory=set)
    """How names begin that are made up, as `anyio._backends._`."""


class Library:
    """The modules of a tree, looked for where the tree's interpreter would."""

    def __init__(self, index: Index, extra: tuple[str, ...] = ()) -> None:
        self.index = index
        release = f"python3.{sys.version_info.minor}"
        standard = (f"usr/lib/{release}", f"usr/lib/{release}/lib-dynload")
        installed = (f"usr/local/lib/{release}/dist-packages", "usr/lib/python3/dist-packages")
        self.standard = standard
        self.path = tuple(dict.fromkeys((*extra, *standard, *installed)))
        self._found: dict[str, Module | None] = {}

    def find(self, name: str) -> Module | None:
        """The module of that name; None if it is built in or not there."""
        if name not in self._found:
            self._found[name] = self._look(name)
        return self._found[name]

    def _look(self, name: str) -> Module | None:
        relative = name.replace(".", "/")
        for root in self.path:
            base = posixpath.join(root, relative)
            if f"{base}/__init__.py" in self.index.entries:
                return Module(name, f"{base}/__init__.py", True)
            if f"{base}.py" in self.index.entries:
                return Module(name, f"{base}.py", False)
            for path in self.index.children(posixpath.dirname(base)):
                if path.startswith(f"{base}.") and _SUFFIX.fullmatch(path[len(base) :]):
                    return Module(name, path, False)
        return None

    def named(self, text: str) -> str:
        """The longest start of a dotted text that is a module which does not belong to the standard library."""
        parts = text.partition(":")[0].split(".")
        for length in range(len(parts), 0, -1):
            name = ".".join(parts[:length])
            module = self.find(name)
            if module and not module.path.startswith(self.standard) and (length > 1 or ":" in text):
                return name
        return ""

    def beginning(self, start: str) -> list[str]:
        """Modules in one package whose names begin so."""
        package, _, rest = start.rpartition(".")
        roots = [posixpath.join(root, package.replace(".", "/")) for root in self.path] if package else []
        paths = [path for root in roots for path in self.index.children(root)]
        names = {posixpath.basename(path).partition(".")[0] for path in paths if not path.endswith("__pycache__")}
        return [f"{package}.{name}" for name in sorted(names) if name.startswith(rest)]

    def name_of(self, path: str) -> str:
        """The name under which a file is imported; empty if it is none."""
        for root in sorted(self.path, key=len, reverse=True):
            if path.startswith(f"{root}/") and path.endswith(".py"):
                return path[len(root) + 1 : -3].replace("/", ".").removesuffix(".__init__")
        return ""

    def from_extension(self, name: str, texts: set[str]) -> set[str]:
        """What an extension module imports: what is known of it, and modules whose very names stand in it."""
        known = set(FROM_C.get(name, ()))
        return known | {text for text in texts & sys.stdlib_module_names if len(text) > 3 and text not in _NEVER}

    def aside(self, importing: str, imported: str) -> bool:
        """The import is not followed, both being of the standard library."""
        return imported.partition(".")[0] in ASIDE and importing.partition(".")[0] not in ASIDE

    def startup(self) -> tuple[str, ...]:
        return (*STARTUP, *(name for built_in in _BUILT_IN for name in FROM_C[built_in]))


def scan(source: bytes, name: str, *, package: bool, standard: bool, main: bool) -> Seen:
    """What a source imports and names. `main`: it is run as a program too."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            tree = ast.parse(source)
        except (SyntaxError, ValueError, RecursionError):
            return Seen()
    seen = Seen()
    stack: list[ast.AST] = [tree]
    lazy = _is_lazy(tree)
    while stack:
        node = stack.pop()
        typing_only = isinstance(node, ast.If) and _is_type_checking(node.test)
        if not (lazy and typing_only) and _left_alone(node, standard=standard, main=main):
            stack += getattr(node, "orelse", [])
            continue
        _note(node, name, package, seen)
        stack += ast.iter_child_nodes(node)
    if name in _TABLES:
        seen.texts.clear()
    return seen


def _left_alone(node: ast.AST, *, standard: bool, main: bool) -> bool:
    if isinstance(node, ast.If):
        names = {found.id for found in ast.walk(node.test) if isinstance(found, ast.Name)}
        return _is_type_checking(node.test) or ("__name__" in names and not main)
    return standard and isinstance(node, ast.FunctionDef) and bool(_TESTS.fullmatch(node.name))


def _is_type_checking(test: ast.expr) -> bool:
    """And nothing else: `TYPE_CHECKING or not install_lazy_importer()` is how modules list what they import late."""
    name = test.id if isinstance(test, ast.Name) else test.attr if isinstance(test, ast.Attribute) else ""
    return name == "TYPE_CHECKING"


def _is_lazy(tree: ast.Module) -> bool:
    """The module imports on demand (PEP 562); its type checking block says what."""
    return any(isinstance(node, ast.FunctionDef) and node.name == "__getattr__" for node in tree.body)


def _note(node: ast.AST, name: str, package: bool, seen: Seen) -> None:
    if isinstance(node, ast.Import):
        seen.imports.update(alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        base = _absolute(node, name, package)
        if base:
            seen.imports.add(base)
            seen.imports.update(f"{base}.{alias.name}" for alias in node.names if alias.name != "*")
    elif isinstance(node, ast.Constant) and isinstance(node.value, str) and len(node.value) < 200:
        seen.texts.add(node.value)
    elif isinstance(node, ast.Call) and node.args:
        called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        if called in ("import_module", "__import__"):
            _note_call(node.args[0], name, package, seen)


def _note_call(argument: ast.expr, name: str, package: bool, seen: Seen) -> None:
    """import_module("x.y"), or import_module(f"x.{which}")."""
    first = argument.values[0] if isinstance(argument, ast.JoinedStr) and argument.values else argument
    if isinstance(first, ast.Constant) and isinstance(first.value, str):
        text = resolved(first.value, name, package=package)
        (seen.imports if first is argument else seen.starts).add(text)


def _absolute(node: ast.ImportFrom, name: str, package: bool) -> str:
    text = f"{'.' * node.level}{node.module or ''}"
    return resolved(text, name, package=package).rstrip(".")


def resolved(text: str, name: str, *, package: bool) -> str:
    """The absolute name of `text`, which may begin with dots, as seen from the module `name`."""
    bare = text.lstrip(".")
    level = len(text) - len(bare)
    if not level:
        return text
    parts = name.split(".") if package else name.split(".")[:-1]
    return ".".join([*parts[: len(parts) - (level - 1)], bare])


def dotted(texts: set[str], name: str, *, package: bool) -> Iterator[str]:
    """Texts that look like the name of a module, or of something in one; relative ones made absolute."""
    for text in sorted(texts):
        if _DOTTED.fullmatch(text):
            yield text
        elif _RELATIVE.fullmatch(text):
            yield resolved(text, name, package=package)


def codecs(texts: set[str]) -> Iterator[str]:
    """Modules of the codecs that texts name."""
    for text in sorted(texts):
        if 2 < len(text) < 24 and text.isascii():
            name = encodings.normalize_encoding(text).lower()
            name = encodings.aliases.aliases.get(name, name)
            if re.fullmatch(r"\w+", name):
                yield f"encodings.{name}"
