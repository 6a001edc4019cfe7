"""Reference: docs/reference/app-file.md, written from the readers' keys, the model's descriptions and what is refused.

Run `python -m whit.formats.app.reference` after a change to one of them, in the project's directory.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from whit.formats.app import appfile, parts, uses
from whit.formats.app.service import KEYS, SCRATCH
from whit.formats.app.unsupported import UNSUPPORTED
from whit.formats.policy import app_policies
from whit.formats.policy import ports as policy_ports
from whit.model.build import CATALOGUE, CheckSpec
from whit.model.service import (
    BalanceSpec,
    DependencySpec,
    EndpointSpec,
    HealthSpec,
    LimitsSpec,
    MountSpec,
    PortSpec,
    ScaleSpec,
    ServiceSpec,
    UseSpec,
)

TARGET = Path("docs/reference/app-file.md")

_OPENING = f"""\
# App file

<!-- Written by `python -m whit.formats.app.reference`; do not edit. -->

An app is one YAML file. In a directory these are looked for, in this order:
`{"`, `".join((*appfile.DECLARED_FILES, *appfile.OPEN_FILES))}`.
A file that has `compose` in its name is **open**: who reaches whom is as in Compose. Every other is **declared**: a
service reaches what it `uses`, and nothing else. The keys are those of the
[Compose Specification](https://github.com/compose-spec/compose-spec) and a few of Whit's own: `uses`, `isolation` and
`build.parts`. What is not honoured is refused with its place, never passed over. Last come Capstan's files,
`Capstanfile` and `meta/run.yaml`: an open app of one service ([how](../explanation/images.md#capstans-files)).

A declared service has a read-only root file system, and memory (tmpfs) at `{"`, `".join(SCRATCH)}` unless it mounts
something there itself. `read_only: false` makes the root writable instead.

Paths start at the file's directory. Values, not keys, may hold variables: `$V`, `${{V}}`, `${{V:-default}}`,
`${{V-default}}`, `${{V:?error}}`, `${{V?error}}`, `${{V:+other}}`, `${{V+other}}`, and `$$` for a dollar sign. They
come from the environment, then from `.env` beside the file. Keys that begin with `x-` are free, for anchors and notes.
Durations are written as `1m30s`, `250ms`; sizes as `512m`, `1g`, in powers of 1024.
"""

_NESTED: tuple[tuple[str, type[BaseModel | EndpointSpec], dict[str, str]], ...] = (
    ("ports", PortSpec, {}),
    ("volumes", MountSpec, {"kind": "type", "size": "tmpfs.size", "mode": "tmpfs.mode"}),
    ("depends_on", DependencySpec, {}),
    ("healthcheck", HealthSpec, {}),
    ("deploy.resources.limits", LimitsSpec, {}),
    ("uses", UseSpec, {}),
    ("balance", BalanceSpec, {}),
    ("scale", ScaleSpec, {}),
    ("endpoints", EndpointSpec, {}),
)
"""Tables inside a service: where, the noun that describes it, and fields whose key has another name."""

_POLICIES = """\
## Policies

A policy selects services, and makes them default-deny in each direction that it names: what its rules allow adds up
with `uses`, and what one denies is denied. Policies of the tiers admin and baseline make nothing default-deny: their
rules are asked in order, before all others or after them, the cluster's first.

```yaml
policies:
  db-from-api:
    for: db
    ingress:
      - {allow: api, ports: [5432]}
      - {allow: {app: backup, service: dump}, ports: [5432]}
  no-private-networks:
    tier: admin
    priority: 10
    egress:
      - deny: {cidr: 10.0.0.0/8, except: 10.1.0.0/16}
      - {deny: everybody, ports: [icmp/5, 6000-6063]}
```

The services of `for` and the two ends' own rules have to agree: who is admitted must also be allowed to come out.
`whit policy check` says where they do not. Policies as Kubernetes writes them are applied with `whit policy apply`.
"""
_RULE = f"Exactly one of `allow`, `deny` and `pass`. Ports are {policy_ports.FORMS}."

_DESCRIBED = {"condition": "`service_started`, `service_healthy` or `service_completed_successfully`."}


def page() -> str:
    """The whole page, Markdown."""
    sections = [
        _OPENING,
        _section("Top level", "Key | Meaning", ((f"`{key}`", text) for key, text in appfile.KEYS.items())),
        _section("Services", "Key | Takes | Meaning", _services()),
        *(
            _section(f"services.*.{path}", "Key | Meaning | Default", _fields(noun, names), level=3)
            for path, noun, names in _NESTED
        ),
        _parts(),
        _policies(),
        _section("Not honoured", "Key | Instead", ((f"`{path}`", text) for path, text in UNSUPPORTED.items())),
    ]
    return "\n".join(sections)


def _section(title: str, head: str, rows: Iterator[tuple[str, ...]], level: int = 2, text: str = "") -> str:
    rule = " | ".join("---" for _ in head.split(" | "))
    lines = (f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |" for row in rows)
    above = (text, "") if text else ()
    return "\n".join((f"{'#' * level} {title}", "", *above, f"| {head} |", f"| {rule} |", *lines, ""))


def _services() -> Iterator[tuple[str, ...]]:
    for key, honoured in KEYS.items():
        model, _, name = honoured.field.rpartition(".")
        fields = LimitsSpec.model_fields if model else ServiceSpec.model_fields
        yield f"`{key}`", honoured.accepts, fields[name].description or ""


def _fields(model: type[BaseModel | EndpointSpec], names: dict[str, str]) -> Iterator[tuple[str, ...]]:
    for name, field in _fields_of(model).items():
        key = names.get(name, name)
        yield f"`{key}`", field.description or _DESCRIBED[name], _default(field)


def _fields_of(model: type[BaseModel | EndpointSpec]) -> dict[str, FieldInfo]:
    return dict(vars(model)["__pydantic_fields__"])


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    if isinstance(field.default, float):
        return f"`{field.default:g}s`"
    return "" if field.default in (None, "") else f"`{str(field.default).lower()}`"


def _policies() -> str:
    """The sections of an app file's policies."""
    words = ", ".join(f"`{word}`" for word in app_policies.WORDS)
    tables = (
        ("policies.*", app_policies.KEYS, ""),
        ("policies.*.ingress[], policies.*.egress[]", app_policies.RULE_KEYS, _RULE),
        ("Peers of policies", app_policies.PEER_KEYS, f"A peer is a service's name, one of {words}, or a table."),
    )
    sections = (
        _section(title, "Key | Meaning", ((f"`{key}`", said) for key, said in keys.items()), level=3, text=text)
        for title, keys, text in tables
    )
    return "\n".join((_POLICIES, *sections))


def _rows(noun: type[BaseModel]) -> str:
    rows = "\n".join(f"| {' | '.join(row)} |" for row in _fields(noun, {}))
    return f"| Key | Meaning | Default |\n| --- | --- | --- |\n{rows}"


def _parts() -> str:
    forms = "\n".join(f"- `{form}`" for form in parts.FORMS.split(", "))
    entities = " and ".join(f"`{name}`" for name in uses.ENTITIES)
    return f"""\
### services.*.build.parts

Parts are linked in their order; later ones win where two bring the same path.

{forms}

`link` says how much of a part comes into the image: `whole`; `trim`, without what only people and compilers read; or
`closure`, only what the service's command, its health check and the checks reach. In `build` it is for all parts that
say nothing themselves, but for directories. `include` and `exclude` are globs of paths, for a part or for all.

`build.check` proves the image, in a root of its own, before it is accepted; a part that is linked by closure needs one.
A check is a command that ends with 0, or a table:

{_rows(CheckSpec)}

A part may be a table: `part` is one of these, `provides` and `requires` are names of needs. `build.needs` are needs of
the app itself. What no part provides comes from Debian: {", ".join(f"`{name}`" for name in CATALOGUE)}.

`build: DIR` is short for one part: a Python project if the directory has {" or ".join(parts.PYTHON_FILES)}, else its
files. A Dockerfile is not run.

`extends: catalog:NAME` takes over a service of the catalogue (`whit catalog ls`): own keys win; own parts, `needs`,
`include` and `exclude` come after those of the entry; own checks replace its checks.

Short items of `uses` are names of services, and {entities}.
"""


if __name__ == "__main__":
    TARGET.write_text(page(), encoding="utf-8")
