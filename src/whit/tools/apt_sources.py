"""The sources of apt: which entries of the host's /etc/apt serve a release, rendered for a private apt.

Reads both notations (sources.list(5)): one line an entry, and deb822. Entries that switch off the checking of
signatures are refused; the keys are those that the host trusts for the entry.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from whit.base.errors import InputError, Place, Unavailable

_POCKETS = ("", "-updates", "-security", "-backports")
_UNCHECKED = ("trusted", "allow-insecure", "allow-weak", "allow-downgrade-to-insecure")
_KEPT = ("signed-by", "check-valid-until", "valid-until-max", "by-hash")
_ONE_LINE = re.compile(r"^(deb|deb-src)\s+(?:\[([^]]*)\]\s+)?(\S+)\s+(\S+)\s*(.*)$")


@dataclass(frozen=True)
class Source:
    """One entry. Option names are in lower case."""

    types: tuple[str, ...]
    uris: tuple[str, ...]
    suites: tuple[str, ...]
    components: tuple[str, ...]
    place: Place
    options: Mapping[str, str] = field(default_factory=dict)


def release(os_release: Path = Path("/etc/os-release")) -> str:
    """The code name of the host's Debian release. Raises Unavailable on other systems."""
    values: dict[str, str] = dict(re.findall(r'^(\w+)="?([^"\n]*)"?$', os_release.read_text(), re.MULTILINE))
    if values.get("ID") != "debian" or not values.get("VERSION_CODENAME"):
        raise Unavailable(
            f"Debian parts need a Debian host; this one is {values.get('PRETTY_NAME', 'unknown')}",
            hint="build on Debian, or use a layout part",
        )
    return values["VERSION_CODENAME"]


def host_sources(codename: str, architecture: str, directory: Path = Path("/etc/apt")) -> str:
    """The entries that serve `codename` and its updates, as deb822 text.

    Raises:
        InputError: an entry switches off the checking of signatures.
        Unavailable: none serves the release.
    """
    stanzas = [_render(source, codename, architecture) for source in read_all(directory)]
    text = "\n".join(stanza for stanza in stanzas if stanza)
    if not text:
        raise Unavailable(
            f"no entry in {directory} serves Debian {codename} for {architecture}",
            hint=f"add a source with the suite {codename} to {directory}/sources.list.d",
        )
    return text


def backports(codename: str, architecture: str, directory: Path = Path("/etc/apt")) -> str:
    """The entry of `codename` itself, led to its backports, which are on the same mirrors; without any other suite.

    Raises:
        InputError, Unavailable: as `host_sources`.
    """
    entries = [source for source in read_all(directory) if codename in source.suites]
    rendered = (
        _render(replace(source, suites=(f"{codename}-backports",)), codename, architecture) for source in entries
    )
    text = next((stanza for stanza in rendered if stanza), "")
    if not text:
        raise Unavailable(
            f"no entry in {directory} serves Debian {codename} for {architecture}, so its backports cannot be found",
            hint=f"add a source with the suite {codename} to {directory}/sources.list.d",
        )
    return text


def host_credentials(directory: Path = Path("/etc/apt")) -> str:
    """The host's credentials for its mirrors, see apt_auth.conf(5)."""
    files = [directory / "auth.conf", *sorted((directory / "auth.conf.d").glob("*.conf"))]
    return "\n".join(path.read_text() for path in files if path.is_file())


def read_all(directory: Path) -> Iterator[Source]:
    """Every enabled entry, in the order in which apt reads them."""
    for path in [directory / "sources.list", *sorted((directory / "sources.list.d").glob("*"))]:
        if path.suffix == ".list" and path.is_file():
            yield from _one_line(path.read_text(), str(path))
        elif path.suffix == ".sources" and path.is_file():
            yield from _deb822(path.read_text(), str(path))


def _one_line(text: str, file: str) -> Iterator[Source]:
    for number, line in enumerate(text.splitlines(), start=1):
        found = _ONE_LINE.match(line.partition("#")[0].strip())
        if found:
            kind, options, uri, suite, components = found.groups()
            pairs = (pair.partition("=") for pair in (options or "").split())
            named = {name.lower(): value.replace(",", " ") for name, _, value in pairs}
            place = Place(file, number)
            yield Source((kind,), (uri,), (suite,), tuple(components.split()), place, named)


def _deb822(text: str, file: str) -> Iterator[Source]:
    line = 1
    for block in re.split(r"(\n[ \t]*\n)", text):
        fields = _fields(block)
        if fields.get("types") and fields.get("enabled", "yes").lower() not in ("no", "false", "0"):
            lists = (tuple(fields.pop(name, "").split()) for name in ("types", "uris", "suites", "components"))
            types, uris, suites, components = lists
            yield Source(types, uris, suites, components, Place(file, line), fields)
        line += block.count("\n")


def _fields(block: str) -> dict[str, str]:
    """Fields of a stanza; continuation lines keep their form, since a key may be written inside of Signed-By."""
    fields: dict[str, str] = {}
    name = ""
    for line in block.splitlines():
        if line.startswith("#"):
            continue
        if line[:1] in (" ", "\t") and name:
            fields[name] += f"\n{line}"
        elif ":" in line:
            name, _, value = line.partition(":")
            name = name.strip().lower()
            fields[name] = value.strip()
    return fields


def _render(source: Source, codename: str, architecture: str) -> str:
    suites = [suite for suite in source.suites if suite in {codename + pocket for pocket in _POCKETS}]
    served = source.options.get("architectures", source.options.get("arch", architecture)).split()
    if "deb" not in source.types or not suites or architecture not in served:
        return ""
    for option in _UNCHECKED:
        if source.options.get(option, "no").lower() in ("yes", "true", "1"):
            raise InputError(
                f"the source {' '.join(source.uris)} is used without checking its signature ({option})",
                place=source.place,
                hint="name its key with Signed-By instead",
                code="repository-unsigned",
            )
    fields = {
        "Types": "deb",
        "URIs": " ".join(source.uris),
        "Suites": " ".join(suites),
        "Components": " ".join(source.components),
        "Architectures": architecture,
    }
    kept = {name.title(): source.options[name] for name in _KEPT if name in source.options}
    return "".join(f"{name}: {value}\n" for name, value in (fields | kept).items())
