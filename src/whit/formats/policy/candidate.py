"""Candidate: files that say what may be reached, app files and policies of Kubernetes alike, read to be looked at."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from whit.base.errors import InputError, Place
from whit.formats.app.appfile import AppFile, load_app_file
from whit.formats.nodes import Table, parse_all
from whit.formats.policy.kubernetes import load_policies
from whit.formats.problems import Problems
from whit.model.finding import Candidate
from whit.model.policy import PolicySpec


def load_candidate(paths: Sequence[Path], *, namespace: str = "default") -> Candidate:
    """All that the files say. A directory stands for its app file. `namespace` is that of policies that name none.

    Raises:
        InputError: there is no such file, or two bring an app of the same name.
        InvalidApp: the content of one is wrong.
    """
    apps: dict[str, AppFile] = {}
    policies: dict[tuple[str, str], PolicySpec] = {}
    for path in paths:
        if _has_kinds(path):
            policies |= {(one.app, one.name): one for one in load_policies(path, namespace=namespace)}
            continue
        found = load_app_file(path)
        if found.spec.name in apps:
            hint = "name one of the two files"
            raise InputError(f"the app {found.spec.name} was read already", place=Place(str(found.file)), hint=hint)
        apps[found.spec.name] = found
    return Candidate(
        apps=tuple(one.spec for one in apps.values()),
        policies=tuple(policies.values()),
        places={key: place for one in apps.values() for key, place in one.places.items()},
    )


def _has_kinds(path: Path) -> bool:
    """Whether the file holds documents of Kubernetes. What cannot be read is told by the reader of app files."""
    if not path.is_file():
        return False
    try:
        documents = parse_all(path.read_text(encoding="utf-8"), str(path), Problems())
    except (OSError, UnicodeDecodeError, InputError):
        return False
    return any(isinstance(one, Table) and "kind" in one.entries for one in documents)
