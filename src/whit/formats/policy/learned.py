"""Learned uses as text: a fragment of an app file, and an app file with its `uses` replaced.

The file is edited where `uses` stands and nowhere else, so that comments and everything else stay as they are. What
cannot be edited so is refused; the fragment can still be pasted by hand.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from datetime import datetime

import yaml

from whit.base.errors import InputError, Place
from whit.formats.app.appfile import AppFile, load_app
from whit.model.app import AppSpec
from whit.model.learned import Learned, LearnedService, LearnedUse
from whit.model.service import UseSpec

UNSEEN = "# declared and never seen: "
OTHERS = "# seen, and for `policies` to say: "
_PASTE = "paste what `whit policy learn` prints by hand"


def fragment(learned: Learned) -> str:
    """YAML, with what was seen of each line behind it."""
    lines = [f"# {_summary(learned)}", "services:"]
    for name, service in learned.services.items():
        lines += [f"  {name}:", *(f"    {line}" for line in uses_of(service))]
    return "\n".join(lines) + "\n"


def uses_of(service: LearnedService) -> list[str]:
    """The key `uses` with its lines."""
    items = [(f"- {written(one.use)}", _remark(one)) for one in service.uses]
    width = max((len(text) for text, _ in items), default=0)
    lines = [f"  {text.ljust(width)}  # {remark}" for text, remark in items]
    lines += [f"  {UNSEEN}{written(use)}" for use in service.unseen]
    lines += [f"  {OTHERS}{text}" for text in service.others]
    return ["uses:" if service.uses else "uses: []", *lines]


def written(use: UseSpec) -> str:
    """One item of `uses`, as people write it."""
    given = {key: getattr(use, key) for key in ("service", "cidr", "dns", "entity", "port")}
    if use.protocol and (use.protocol != "tcp" or not use.port):
        given["protocol"] = use.protocol
    pairs = (f"{key}: {_scalar(value)}" for key, value in given.items() if value is not None)
    return f"{{{', '.join(pairs)}}}"


def _scalar(value: object) -> str:
    """Quoted where YAML would take it for something else."""
    text = str(value)
    return f'"{text}"' if isinstance(value, str) and set(text) & set(":*{}[],&#?|<>=!%@`'\"") else text


def _summary(learned: Learned) -> str:
    since = f" since {_time(learned.since)}" if learned.since else ""
    return f"learned from {learned.flows} flows{since}"


def _remark(one: LearnedUse) -> str:
    wide = f"{one.addresses} addresses, " if one.addresses > 1 else ""
    new = "" if one.declared else "; not declared yet"
    return f"{wide}{one.count} times, last {_time(one.last)}{new}"


def _time(moment: datetime) -> str:
    return moment.astimezone().strftime("%Y-%m-%d %H:%M:%S")


# ---- an app file with its `uses` replaced ----


def edited(text: str, file: str, learned: Learned) -> str:
    """The text of the app file with the learned `uses` in place of those it has.

    Raises:
        InputError: a service is written so that it cannot be edited by lines.
    """
    lines = text.splitlines()
    root = yaml.compose(text, Loader=yaml.SafeLoader)
    services = _child(root, "services") if root is not None else None
    if services is None:
        raise InputError("has no services", place=Place(file), hint=_PASTE)
    # From the end, so that what was found before stays where it is.
    for name, service in reversed(list(_ordered(services[1], learned))):
        first, last, indent = _region(services[1], name, file)
        while last < len(lines) and lines[last].lstrip().startswith((UNSEEN, OTHERS)):
            last += 1  # what was written here the last time
        lines[first:last] = [f"{' ' * indent}{line}" for line in uses_of(service)]
    return "\n".join(lines) + ("\n" if text.endswith("\n") else "")


def replaced(there: AppFile, text: str, learned: Learned) -> None:
    """Have the text in the file's place, if it says what was learned and nothing else is different.

    Raises:
        InputError: it does not, and the file is as it was.
    """
    file = there.file
    beside = file.with_name(f".{file.name}.learned.yaml")
    try:
        beside.write_text(text, encoding="utf-8")
        shutil.copymode(file, beside)
        if _placeless(load_app(beside)) != _placeless(_with_uses(there.spec, learned)):
            raise InputError("cannot be edited by lines", place=Place(str(file)), hint=_PASTE)
        beside.replace(file)
    finally:
        beside.unlink(missing_ok=True)


def _with_uses(spec: AppSpec, learned: Learned) -> AppSpec:
    services = {
        name: spec.services[name].model_copy(update={"uses": tuple(one.use for one in found.uses)})
        for name, found in learned.services.items()
    }
    return spec.model_copy(update={"services": spec.services | services})


def _placeless(spec: AppSpec) -> AppSpec:
    """Its policies may have come to stand in other lines."""
    policies = [
        policy.model_copy(
            update={"origin": "", "rules": tuple(rule.model_copy(update={"origin": ""}) for rule in policy.rules)}
        )
        for policy in spec.policies
    ]
    return spec.model_copy(update={"policies": tuple(policies)})


def _ordered(services: yaml.Node, learned: Learned) -> Iterator[tuple[str, LearnedService]]:
    """In the order of the file."""
    for key, _ in services.value if isinstance(services, yaml.MappingNode) else ():
        if key.value in learned.services:
            yield key.value, learned.services[key.value]


def _region(services: yaml.Node, name: str, file: str) -> tuple[int, int, int]:
    """First line of `uses` and the line after its last, counted from 0, and how far it is indented. Without `uses`,
    the place after the service's last line."""
    found = _child(services, name)
    place = Place(file, found[0].start_mark.line + 1 if found else 0, key=f"services.{name}")
    if found is None or not isinstance(found[1], yaml.MappingNode) or found[1].flow_style or not found[1].value:
        raise InputError("is not written as a block of keys", place=place, hint=_PASTE)
    if found[1].start_mark.index < found[0].end_mark.index:
        raise InputError("is an alias of another service", place=place, hint=_PASTE)
    indent = found[1].value[0][0].start_mark.column
    uses = _child(found[1], "uses")
    if uses is None:
        after = _last(found[1]) + 1
        return after, after, indent
    if uses[1].start_mark.index < uses[0].end_mark.index or uses[0].start_mark.column != indent:
        raise InputError("has uses by an alias or a merge", place=place, hint=_PASTE)
    return uses[0].start_mark.line, max(_last(uses[1]), uses[0].start_mark.line) + 1, indent


def _child(node: yaml.Node, key: str) -> tuple[yaml.Node, yaml.Node] | None:
    pairs = node.value if isinstance(node, yaml.MappingNode) else ()
    return next(((one, value) for one, value in pairs if one.value == key), None)


def _last(node: yaml.Node) -> int:
    """The last line of a value. The end of a block is only known by what is in it."""
    if isinstance(node, yaml.MappingNode) and not node.flow_style and node.value:
        return max(_last(part) for part in node.value[-1])
    if isinstance(node, yaml.SequenceNode) and not node.flow_style and node.value:
        return _last(node.value[-1])
    if isinstance(node, yaml.ScalarNode) and node.style in ("|", ">"):
        return max(node.end_mark.line - 1, node.start_mark.line)
    return int(node.end_mark.line)
