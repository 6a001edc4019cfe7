"""Nodes: YAML text as tables, lists and scalars, each with its place and the path of its key.

Scalars stay as they are written, so that `22:22`, `no` and `1.10` do not become a number of base 60, a truth value and
1.1 as YAML 1.1 (yaml.org/spec/1.1) has it; shapes.py gives them a type where a key asks for one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import yaml

from whit.base.errors import InputError, Place
from whit.formats.problems import Problems

MAX_VALUES = 100_000
"""Values of one file after aliases are followed; a few nested aliases could otherwise stand for billions."""

_TAG = "tag:yaml.org,2002:"
_SCALAR_TAGS = {_TAG + name for name in ("str", "int", "float", "bool", "null", "timestamp", "value", "merge")}

Expand = Callable[[str, Place], str]


@dataclass(frozen=True)
class Scalar:
    """`null` was written as nothing, `~` or `null`. `fault` is what interpolation found wrong with the text."""

    place: Place
    value: str
    null: bool = False
    fault: InputError | None = None

    @property
    def text(self) -> str:
        """The text after interpolation. Raises InputError if that failed."""
        if self.fault:
            raise self.fault
        return self.value


@dataclass(frozen=True)
class Listing:
    place: Place
    items: tuple[Value, ...]


@dataclass(frozen=True)
class Entry:
    """A key of a table. `place` is that of the key."""

    key: str
    place: Place
    value: Value


@dataclass(frozen=True)
class Table:
    place: Place
    entries: dict[str, Entry]


Value = Scalar | Listing | Table


def parse(text: str, file: str, expand: Expand, problems: Problems) -> Value:
    """The one document in `text`; `expand` interpolates each scalar value. Duplicate keys become problems.

    Raises:
        InputError: it is not YAML, is empty, contains itself, or is too large.
    """
    with _told(file):
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        if node is None:
            raise InputError("the file is empty", place=Place(file, 1, 1), hint="begin with `services:`")
        return _Conversion(file, expand, problems).value(node, "")


def parse_all(text: str, file: str, problems: Problems) -> list[Value]:
    """The documents in `text`, which `---` parts; empty ones are passed over. Nothing is interpolated.

    Raises:
        InputError: it is not YAML, contains itself, or is too large.
    """
    with _told(file):
        conversion = _Conversion(file, lambda found, _: found, problems)
        return [conversion.value(node, "") for node in yaml.compose_all(text, Loader=yaml.SafeLoader)]


@contextmanager
def _told(file: str) -> Iterator[None]:
    """What the YAML library finds wrong, as our errors."""
    try:
        yield
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = Place(file, mark.line + 1, mark.column + 1) if mark else Place(file)
        raise InputError(f"not YAML: {error.problem or error.context}", place=place) from error
    except yaml.YAMLError as error:
        raise InputError(f"not YAML: {' '.join(str(error).split())}", place=Place(file)) from error
    except RecursionError as error:
        raise InputError("nested too deeply", place=Place(file)) from error


@dataclass
class _Conversion:
    file: str
    expand: Expand
    problems: Problems
    open: list[yaml.Node] = field(default_factory=list)
    count: int = 0

    def value(self, node: yaml.Node, key: str) -> Value:
        place = self.place(node, key)
        self.count += 1
        if self.count > MAX_VALUES:
            raise InputError(f"stands for more than {MAX_VALUES} values", place=place, hint="use fewer aliases")
        if isinstance(node, yaml.ScalarNode):
            return self.scalar(node, place)
        if any(node is parent for parent in self.open):
            raise InputError("the alias stands for a value that contains it", place=place)
        self.open.append(node)
        try:
            return self.table(node, place) if isinstance(node, yaml.MappingNode) else self.listing(node, place)
        finally:
            self.open.pop()

    def place(self, node: yaml.Node, key: str) -> Place:
        return Place(self.file, node.start_mark.line + 1, node.start_mark.column + 1, key)

    def scalar(self, node: yaml.ScalarNode, place: Place) -> Scalar:
        if node.tag not in _SCALAR_TAGS:
            return Scalar(place, node.value, fault=_unknown_tag(node, place))
        if node.tag == _TAG + "null":
            return Scalar(place, "", null=True)
        try:
            text = self.expand(node.value, place)
        except InputError as fault:
            return Scalar(place, node.value, fault=fault)
        if "\0" in text:
            # Neither paths nor arguments nor variables can hold it.
            return Scalar(place, "", fault=InputError("has a NUL character", place=place, hint="leave it out"))
        return Scalar(place, text)

    def listing(self, node: yaml.Node, place: Place) -> Listing:
        if node.tag != _TAG + "seq":
            self.problems.add(_unknown_tag(node, place))
        return Listing(place, tuple(self.value(item, f"{place.key}[{index}]") for index, item in enumerate(node.value)))

    def table(self, node: yaml.MappingNode, place: Place) -> Table:
        if node.tag != _TAG + "map":
            self.problems.add(_unknown_tag(node, place))
        entries: dict[str, Entry] = {}
        merged: list[yaml.Node] = []
        for key_node, value_node in node.value:
            if key_node.tag == _TAG + "merge":
                merged.append(value_node)
                continue
            entry = self.entry(key_node, value_node, place.key)
            if known := entries.get(entry.key):
                self.problems.add(
                    InputError(
                        f"is written twice, first in line {known.place.line}", place=entry.place, hint="keep one"
                    )
                )
            entries.setdefault(entry.key, entry)
        for source in merged:
            self.merge(source, place.key, entries)
        return Table(place, entries)

    def entry(self, key: yaml.Node, value: yaml.Node, parent: str) -> Entry:
        if not isinstance(key, yaml.ScalarNode):
            raise InputError("a key must be text", place=self.place(key, parent))
        path = f"{parent}.{key.value}" if parent else key.value
        return Entry(key.value, self.place(key, path), self.value(value, path))

    def merge(self, source: yaml.Node, key: str, entries: dict[str, Entry]) -> None:
        """Add what `<<` brings and the table does not say itself (yaml.org/type/merge.html)."""
        value = self.value(source, key)
        for table in value.items if isinstance(value, Listing) else (value,):
            if not isinstance(table, Table):
                raise InputError("`<<` takes a table or a list of tables", place=value.place)
            for entry in table.entries.values():
                entries.setdefault(entry.key, entry)


def _unknown_tag(node: yaml.Node, place: Place) -> InputError:
    return InputError(f"the tag {node.tag} is not honoured", place=place, hint="write the value without it")
