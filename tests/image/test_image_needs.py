"""What parts need, who meets it, and how a need that nobody meets is told."""

from __future__ import annotations

from pathlib import Path

import pytest

from whit.base.errors import Unsatisfied
from whit.image.provenance import needs
from whit.model.build import BuildSpec, DebianPart, DirectoryPart, PythonPart

HERE = Path("/nowhere")


def nodes(spec: BuildSpec) -> dict[str, tuple[str, ...]]:
    return {node.id: node.packages for node in needs.resolve(spec).nodes}


def test_python_brings_its_interpreter_with_a_reason() -> None:
    graph = needs.resolve(BuildSpec(parts=(PythonPart(path=HERE, label="./api"),)))
    assert graph.packages == ("libpython3-stdlib", "libstdc++6", "python3-minimal")
    python = next(node for node in graph.nodes if node.id == "need:python")
    assert python.reason == "./api needs python"
    assert needs.Requirement("./api", "python", "need:python") in graph.requirements


def test_named_packages_meet_needs() -> None:
    found = nodes(BuildSpec(parts=(DebianPart(name="python3"), PythonPart(path=HERE))))
    assert "need:python" not in found
    versioned = DebianPart(name="python3-minimal", version="3.11")
    assert nodes(BuildSpec(parts=(versioned, PythonPart(path=HERE))))["need:python"] == ("libpython3-stdlib",)


def test_parts_provide_and_require() -> None:
    site = DirectoryPart(path=HERE, label="./site", requires=("shell", "motd"))
    other = DirectoryPart(path=HERE, label="./other", provides=("motd",))
    graph = needs.resolve(BuildSpec(parts=(site, other)))
    assert {(one.need, one.met_by) for one in graph.requirements} == {("shell", "need:shell"), ("motd", "./other")}
    assert graph.packages == ("dash",)


def test_order_of_needs_changes_nothing() -> None:
    part = DirectoryPart(path=HERE, label=".")
    specs = [BuildSpec(parts=(part,), needs=order) for order in (("shell", "timezones"), ("timezones", "shell"))]
    assert needs.resolve(specs[0]) == needs.resolve(specs[1])


def test_what_a_closed_part_needs_is_closed_too() -> None:
    part = DirectoryPart(path=HERE, label=".", requires=("shell",), link="closure")
    assert [node.link for node in needs.resolve(BuildSpec(parts=(part,))).nodes] == ["closure", "closure"]


def test_unmet_need_names_the_chain_and_what_was_perhaps_meant() -> None:
    part = DirectoryPart(path=HERE, label="./site", requires=("shel",))
    with pytest.raises(Unsatisfied, match=r"'shel', which is needed by: ./site <- the app") as caught:
        needs.resolve(BuildSpec(parts=(part,)))
    assert caught.value.hint == "did you mean shell?"
    assert caught.value.code == "unsatisfied-need"
    with pytest.raises(Unsatisfied, match="needed by: the app"):
        needs.resolve(BuildSpec(parts=(part.model_copy(update={"requires": ()}),), needs=("quantum",)))
