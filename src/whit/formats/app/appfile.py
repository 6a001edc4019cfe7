"""App file: finds it, and reads it into an AppSpec; whit.yaml is declared, Compose files are open.

Owns the top level of the file, the order of reading, and where variables come from. Every mistake of the file is told
at once, as InvalidApp.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from whit.base.errors import InputError, Place
from whit.formats import catalog, shapes
from whit.formats.app.checks import check
from whit.formats.app.dotenv import read_env_file
from whit.formats.app.draft import Source, places_of
from whit.formats.app.interpolate import interpolate
from whit.formats.app.mounts import is_volume_name
from whit.formats.app.naming import valid_name
from whit.formats.app.networks import check_networks, read_networks
from whit.formats.app.parts import project
from whit.formats.app.service import finish, read_service
from whit.formats.app.trust import read_trust
from whit.formats.app.unsupported import refuse
from whit.formats.capstan import app as capstan
from whit.formats.nodes import Entry, Table, parse
from whit.formats.policy.app_policies import Known, read_policies
from whit.formats.problems import Problems, make
from whit.model.app import NAME, AppNetworkSpec, AppSpec, Mode, VolumeSpec
from whit.model.build import BuildSpec
from whit.model.service import ServiceSpec

log = logging.getLogger(__name__)

DECLARED_FILES = ("whit.yaml", "whit.yml")
OPEN_FILES = ("compose.yaml", "compose.yml", "docker-compose.yaml", "docker-compose.yml")
FILES = (*DECLARED_FILES, *OPEN_FILES, *capstan.FILES)
"""In the order in which they are looked for."""

KEYS = {
    "name": "The app's name; the directory's if left out.",
    "services": "The services by name.",
    "policies": "Who may reach whom beside what is used: policies by name.",
    "trust": "Who has to vouch for images that run: a list of `{images: NAMES, keys: [FILE]}`, `*` being any text.",
    "labels": "Labels of the app, which policies of other apps select: a table, or a list of `KEY=value`.",
    "networks": "Networks by name: nothing, or `{internal: true}`. Services that share one may talk, others may not.",
    "volumes": "Named volumes: nothing, or `{labels: …}`.",
    "version": "Passed over with a warning; Compose has no use for it either.",
}


@dataclass(frozen=True)
class AppFile:
    """An app with its file, and the file and line of services, what they use and publish: by `shop/web`,
    `shop/web.uses[0]` and `shop/web.ports[0]`."""

    file: Path
    spec: AppSpec
    places: Mapping[str, str]


def load_app(path: Path, *, environment: Mapping[str, str] | None = None) -> AppSpec:
    """As load_app_file, the app alone."""
    return load_app_file(path, environment=environment).spec


def load_app_file(path: Path, *, environment: Mapping[str, str] | None = None) -> AppFile:
    """The app of a file, or of the app file in a directory.

    Variables come from `environment` (the process's if None), and from `.env` beside the file, over which it wins.

    Raises:
        InputError: there is no such file, or its `.env` is wrong.
        InvalidApp: its content is wrong; all that is.
    """
    file = _chosen_file(path)
    if capstan.is_capstan_file(file):
        return AppFile(file, capstan.load_capstan(file), {})
    directory = file.parent.resolve()
    variables = _variables(directory, os.environ if environment is None else environment)
    problems = Problems()
    source = Source(directory, mode_of(file), variables, problems)
    fields: dict[str, object] = {}
    with problems.guard():
        root = parse(_read(file), str(file), _Expander(variables), problems)
        fields = _top_level(shapes.table(root), source)
    problems.check()
    spec = make(AppSpec, Place(str(file)), {}, fields)
    return AppFile(file, spec, {f"{spec.name}/{what}": where for what, where in source.places.items()})


def project_app(directory: Path) -> AppSpec:
    """A directory that has no app file as an app of one service, which is built from it. Raises InputError."""
    folder = directory.resolve()
    name = valid_name(folder.name)
    part = project(str(folder), Place(str(directory)), folder)
    service = ServiceSpec(build=BuildSpec(parts=(part.model_copy(update={"label": "."}),)))
    return AppSpec(name=name, directory=folder, services={name: service})


def find_app_file(directory: Path) -> Path | None:
    """The app file of a directory; of several, the first of FILES."""
    return next((directory / name for name in FILES if (directory / name).is_file()), None)


def mode_of(file: Path) -> Mode:
    """open for a file that has compose in its name; default-deny for every other."""
    return "open" if "compose" in file.name else "declared"


def _chosen_file(path: Path) -> Path:
    path = catalog.resolve(path)
    if not path.exists():
        raise InputError("there is no such file", place=Place(str(path)), hint=f"looked for: {', '.join(FILES)}")
    if not path.is_dir():
        return path
    if not (file := find_app_file(path)):
        raise InputError("there is no app file here", place=Place(str(path)), hint=f"looked for: {', '.join(FILES)}")
    for override in sorted(path.glob("*compose.override.y*ml")):
        log.warning("%s: is not read; write what it changes into %s", override, file.name)
    return file


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot be read: {error}", place=Place(str(file))) from error


def _variables(directory: Path, environment: Mapping[str, str]) -> Mapping[str, str]:
    file = directory / ".env"
    return {**(read_env_file(file, environment) if file.is_file() else {}), **environment}


class _Expander:
    """Interpolates a scalar; a variable that is not set is empty, with one warning a place."""

    def __init__(self, variables: Mapping[str, str]) -> None:
        self.variables = variables
        self.warned: set[tuple[int, int, str]] = set()

    def __call__(self, text: str, place: Place) -> str:
        return interpolate(text, self.variables, place, lambda name: self.missing(name, place))

    def missing(self, name: str, place: Place) -> str:
        where = (place.line, place.column, name)
        if where not in self.warned:
            log.warning("%s: the variable %s is not set; it is taken as empty", place, name)
        self.warned.add(where)
        return ""


def _top_level(top: Table, source: Source) -> dict[str, object]:
    """The fields of AppSpec. What cannot be read is among the problems."""
    refuse(top, "", KEYS, source.problems)
    if version := top.entries.get("version"):
        log.warning("%s: has no meaning; leave it out", version.place)
    fields: dict[str, object] = {"mode": source.mode, "directory": source.directory}
    with source.problems.guard():
        fields["name"] = _name(top, source.directory)
    volumes = _volumes(top.entries.get("volumes"), source.problems)
    fields["volumes"] = volumes
    networks = read_networks(top.entries.get("networks"), source.problems)
    fields["networks"] = networks
    with source.problems.guard():
        fields["services"] = _services(top, source, volumes, networks)
    with source.problems.guard():
        fields["labels"] = _labels(top.entries.get("labels"))
    fields["trust"] = read_trust(top.entries.get("trust"), source.directory, source.problems)
    if "policies" in top.entries:
        with source.problems.guard():
            known = Known(str(fields.get("name", "app")), _names_of_services(top), source.problems)
            fields["policies"] = read_policies(top.entries["policies"], known)
    return fields


def _labels(entry: Entry | None) -> dict[str, str]:
    return {key: value or "" for key, (value, _) in shapes.assignments(entry.value).items()} if entry else {}


def _names_of_services(top: Table) -> list[str]:
    """Also of those that cannot be read."""
    entry = top.entries.get("services")
    return [name for name in shapes.table(entry.value).entries if not name.startswith("x-")] if entry else []


def _name(top: Table, directory: Path) -> str:
    entry = top.entries.get("name")
    if entry is None:
        return valid_name(directory.name)
    name = shapes.text(entry.value)
    _check_name(name, entry.value.place)
    return name


def _check_name(name: str, place: Place) -> None:
    if not re.fullmatch(NAME, name):
        hint = f"lower-case letters, digits and -, at most 39, a letter first; as {valid_name(name)}"
        raise InputError(f"{name!r} is not a valid name", place=place, hint=hint)


def _services(
    top: Table, source: Source, volumes: Mapping[str, VolumeSpec], networks: Mapping[str, AppNetworkSpec]
) -> dict[str, ServiceSpec]:
    entry = top.entries.get("services")
    found = shapes.table(entry.value).entries if entry else {}
    found = {key: service for key, service in found.items() if not key.startswith("x-")}
    if not found:
        raise InputError("has no services", place=entry.place if entry else top.place, hint="add them under services:")
    drafts = {key: read_service(service, source) for key, service in found.items()}
    check(drafts, volumes, source.problems)
    for problem in check_networks(drafts, networks):
        source.problems.add(problem)
    services: dict[str, ServiceSpec] = {}
    for draft in drafts.values():
        source.places.update(places_of(draft))
        with source.problems.guard():
            _check_name(draft.name, draft.place)
        with source.problems.guard():
            services[draft.name] = finish(draft)
    return services


def _volumes(entry: Entry | None, problems: Problems) -> dict[str, VolumeSpec]:
    volumes: dict[str, VolumeSpec] = {}
    with problems.guard():
        for found in shapes.table(entry.value).entries.values() if entry else ():
            if found.key.startswith("x-"):
                continue
            volumes[found.key] = VolumeSpec()
            with problems.guard():
                volumes[found.key] = _volume(found, problems)
    return volumes


def _volume(entry: Entry, problems: Problems) -> VolumeSpec:
    if not is_volume_name(entry.key):
        raise InputError("is no volume's name", place=entry.place, hint="use letters, digits, _ . and -")
    table = shapes.table(entry.value)
    refuse(table, "volumes.*", ("labels",), problems)
    return VolumeSpec(labels=_labels(table.entries.get("labels")))
