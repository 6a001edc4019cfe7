"""What is asked of the bill of an image or a machine: why a file is in it, as a picture, as a list for others."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from whit.base.errors import InputError

if TYPE_CHECKING:
    from whit.cli.invocation import Invocation
    from whit.image.provenance.bill import Bill

EVERYTHING = "*"
"""What `--explain` without a path stands for."""


@dataclass(frozen=True)
class Questions:
    """What is asked of the bill of what was built."""

    explain: str | None
    graph: Path | None
    sbom: Path | None

    def __bool__(self) -> bool:
        return any(one is not None for one in (self.explain, self.graph, self.sbom))


def answer(
    run: Invocation, name: str, bill: Bill, questions: Questions, *, digest: str = "", kind: str = "container"
) -> None:
    """What is asked of the bill of an image or of a machine, which has the digest of its bill."""
    if questions.explain is not None:
        _explain(run, bill, questions.explain)
    if questions.graph is not None:
        _draw(bill, questions.graph)
    if questions.sbom is not None:
        _write_sbom(name, bill, questions.sbom, digest, kind)


def _write_sbom(name: str, bill: Bill, target: Path, digest: str, kind: str) -> None:
    import hashlib
    import json

    from whit.image.provenance import sbom

    known = digest or f"sha256:{hashlib.sha256(json.dumps(bill.document()).encode()).hexdigest()}"
    text = sbom.encode(sbom.document(name, known, bill, kind=kind))
    if str(target) == "-":
        print(text, end="")
    else:
        target.write_text(text)


def _explain(run: Invocation, bill: Bill, what: str) -> None:
    if what != EVERYTHING:
        lines = bill.explain(what)
        if run.json:
            run.output.document({"path": lines[0], "because": lines[1:]})
            return
        for depth, line in enumerate(lines):
            run.output.line(f"{'  ' * depth}{line}")
    elif run.json:
        run.output.document(bill.document())
    else:
        print_bill(run, bill)


def print_bill(run: Invocation, bill: Bill) -> None:
    """Parts, packages by size with what brought them, and what was left out."""
    from whit.cli.commands.inspection import size_text

    sizes: dict[str, int] = {}
    for file in bill.files:
        sizes[file.package or file.part] = sizes.get(file.package or file.part, 0) + file.size
    run.output.table(("PART", "LINK", "BECAUSE"), [(part.id, part.link, part.reason) for part in bill.parts])
    run.output.line()
    packages = sorted(bill.packages, key=lambda one: (-sizes.get(one.package.id, 0), one.package.id))
    rows = [
        (one.package.id, one.package.version, size_text(sizes.get(one.package.id, 0)), f"{one.via or one.part}")
        for one in packages
        if one.package.id in sizes
    ]
    if rows:
        run.output.table(("PACKAGE", "VERSION", "SIZE", "FOR"), rows)
        run.output.line()
    if bill.left_out:
        left = [(one.package, str(one.files), size_text(one.bytes), one.reason) for one in bill.left_out]
        run.output.table(("LEFT OUT OF", "FILES", "SIZE", "WHY"), left)
        run.output.line()
    run.output.line(f"{len(bill.files)} files, {size_text(bill.size)}")
    for check in bill.checks:
        run.output.line(f"checked: {check}")


def _draw(bill: Bill, target: Path) -> None:
    from whit.image.provenance import graph

    if str(target) == "-":
        print(graph.dot(bill), end="")
    elif target.suffix == ".svg":
        target.write_text(graph.svg(bill))
    elif target.suffix in (".dot", ".gv"):
        target.write_text(graph.dot(bill))
    else:
        raise InputError(
            f"{target} is neither .dot nor .svg",
            hint="give the file one of these endings, or write -",
            code="graph-form",
        )
