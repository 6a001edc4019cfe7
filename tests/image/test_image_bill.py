"""Why something is in an image: from packages to parts, written down and read again, and drawn."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import pytest

from whit.base.errors import NotFound
from whit.image.provenance import depends, graph
from whit.image.provenance.bill import Bill, BilledFile, BilledPart, LeftOut, Package, trace
from whit.image.store.images import ImageStore
from whit.model.build import BuildSpec, DirectoryPart
from whit.model.progress import Report
from whit.tools import apt


def debian(name: str, control: str = "") -> apt.Package:
    return apt.Package(name, "1", "amd64", "0" * 64, 1, f"Package: {name}\n{control}")


def example() -> Bill:
    packages = (Package("a", "1", needs=("b",)), Package("b", "2"), Package("c", "3"))
    parts = (BilledPart("debian:a", "debian", "build.parts[0]", needs=(("base", "need:base"),)),)
    files = (
        BilledFile("usr/bin/a", "file", 10, "debian:a", "a", "command"),
        BilledFile("usr/lib/b.so", "file", 20, "debian:a", "b", "library b.so", "usr/bin/a"),
        BilledFile("lib", "symlink", 0, "debian:a"),
    )
    left = (LeftOut("c", "nothing reaches it", 1, 5, ("usr/bin/c",)),)
    return Bill(parts, trace(packages, [("a", "debian:a")]), files, left, ("true",))


def test_explain_goes_back_to_what_the_person_wrote() -> None:
    assert example().explain("/lib/b.so") == [
        "/usr/lib/b.so",
        "library b.so of /usr/bin/a",
        "command",
        "package b=2 (deb), a depends on it",
        "package a=1 (deb)",
        "part debian:a (whole): build.parts[0]",
    ]


def test_explain_says_what_was_left_out() -> None:
    with pytest.raises(NotFound) as caught:
        example().explain("/usr/bin/c")
    assert caught.value.hint == "left out of c: nothing reaches it"


def test_bill_survives_being_written() -> None:
    assert Bill.parse(example().document()) == example()


def test_shortest_chain_wins_and_nobody_is_lost() -> None:
    packages = (Package("a", needs=("b",)), Package("b", needs=("c", "a")), Package("c"), Package("d", needs=("c",)))
    found = {one.package.name: (one.part, one.via) for one in trace(packages, [("a", "p"), ("d", "q")])}
    assert found == {"a": ("p", ""), "b": ("p", "a"), "c": ("q", "d"), "d": ("q", "")}
    assert [one.package.name for one in trace((Package("x"),), [])] == ["x"]


def test_debian_dependencies_with_alternatives_and_virtual_packages() -> None:
    packages = [
        debian("a", "Depends: b (>= 1), x | c:any, mail-agent\nPre-Depends: libc6"),
        debian("b"),
        debian("c"),
        debian("libc6"),
        debian("postfix", "Provides: mail-agent (= 1), other"),
    ]
    assert depends.of_debian(packages)[0].needs == ("b", "c", "libc6", "postfix")


def test_python_dependencies_without_extras() -> None:
    text = "Name: Web\nVersion: 2\nRequires-Dist: Under_Score>=1\nRequires-Dist: dev; extra == 'dev'\n"
    found = depends.of_python({"Web": text, "under_score": "Version: 1\n", "dev": "Version: 1\n"}, {"web": "ab"})
    assert found[2] == Package("web", "2", kind="pypi", sha256="ab", needs=("pypi:under-score",))


def test_drawing_is_whole_and_well_formed() -> None:
    vertices, edges = graph.drawing(example())
    assert {edge.target for edge in edges} <= {vertex.id for vertex in vertices} | {"need:base"}
    root = ElementTree.fromstring(graph.svg(example()))
    texts = [element.text for element in root.iter("{http://www.w3.org/2000/svg}text")]
    assert {"the app", "debian:a", "b=2"} <= set(texts)
    assert '"package:a" -> "package:b";' in graph.dot(example())


async def test_store_keeps_the_bill(store: ImageStore, tmp_path: Path, report: Report) -> None:
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "index").write_text("hello")
    await store.build("web", BuildSpec(parts=(DirectoryPart(path=tmp_path / "site", label="./site"),)), report)
    bill = store.bill("web")
    assert [(file.path, file.size, file.part) for file in bill.files] == [("index", 5, "./site")]
    with pytest.raises(NotFound):
        store.bill("other")
