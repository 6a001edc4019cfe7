"""whit image: what is in the store, and in each of its images; needs no agent."""

from __future__ import annotations

import posixpath
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from whit.base.errors import NotFound
from whit.cli.commands import signing
from whit.cli.invocation import Invocation, command

if TYPE_CHECKING:
    from whit.image.provenance.bill import Bill, BilledFile
    from whit.image.store.images import ImageStore

image = typer.Typer(name="image", help="Look at the images of the store, compare them, and remove what nobody needs.")

NameArgument = Annotated[str, typer.Argument(metavar="NAME", help="The image, as `whit image ls` names it.")]


def add(app: typer.Typer) -> None:
    for function in (ls, inspect, tree, diff, sbom, rm, gc):
        command(image)(function)
    signing.add(image)
    app.add_typer(image)


def ls(run: Invocation) -> None:
    """List the images, with the bytes of their layers.

    \b
    Example:
      whit image ls
    """
    from whit.cli.commands.inspection import short_digest, size_text

    stored = _store(run).images()
    if run.json:
        run.output.document([{"name": one.name, "digest": one.digest, "size": one.size} for one in stored])
        return
    rows = [(one.name, short_digest(one.digest), size_text(one.size)) for one in stored]
    run.output.table(("IMAGE", "DIGEST", "SIZE"), rows)


def inspect(run: Invocation, name: NameArgument) -> None:
    """Say what an image is made of: configuration, parts, packages, and what was left out and why.

    \b
    Example:
      whit image inspect shop-web
    """
    from whit.cli.commands.bills import print_bill

    store = _store(run)
    found, bill = store.image(name), store.bill(name)
    if run.json:
        config = found.config.model_dump(mode="json")
        head = {"name": name, "digest": found.digest, "size": found.size, "config": config}
        run.output.document(head | bill.document())
        return
    run.output.line(f"{name}  {found.digest}")
    words = (*found.config.entrypoint, *found.config.command)
    run.output.line(f"runs {' '.join(words) or 'no command of its own'} in {found.config.working_dir}")
    run.output.line()
    print_bill(run, bill)


def tree(
    run: Invocation,
    name: NameArgument,
    path: Annotated[str, typer.Argument(metavar="DIR", help="Only what is below this directory.")] = "/",
    depth: Annotated[int, typer.Option("--depth", metavar="N", min=1, help="Directories deep; below, sums.")] = 3,
) -> None:
    """Draw the files of an image with their sizes, packages and reasons.

    \b
    Example:
      whit image tree shop-web /usr/lib --depth 4
    """
    from whit.cli.commands.inspection import size_text

    files = _below(_store(run).bill(name), path)
    if not files:
        raise NotFound(f"{name} has nothing below {path}", hint="leave the directory out to see all of it")
    if run.json:
        keys = ("path", "kind", "size", "part", "package", "reason", "via")
        run.output.document([{key: getattr(file, key) for key in keys} for file in files])
        return
    base = posixpath.normpath(path).strip("/")
    sums: dict[str, list[BilledFile]] = {}
    for file in files:
        relative = file.path[len(base) :].strip("/") if base not in ("", ".") else file.path
        sums.setdefault("/".join(relative.split("/")[:depth]), []).append(file)
    for shown, group in sorted(sums.items()):
        inside = [file for file in group if file.kind != "directory"]
        size = sum(file.size for file in inside)
        only = group[0] if len(group) == 1 else None
        note = f"{only.package or only.part}  {only.reason}" if only else f"{len(inside)} files"
        if inside:
            run.output.line(f"{size_text(size):>10}  {'  ' * shown.count('/')}{shown}  ({note.strip()})")


def diff(
    run: Invocation,
    old: Annotated[str, typer.Argument(metavar="OLD", help="An image.")],
    new: Annotated[str, typer.Argument(metavar="NEW", help="Another.")],
) -> None:
    """Tell two images apart: packages, then files that were added, removed or have another size.

    \b
    Example:
      whit image diff shop-web shop-api
    """
    from whit.image.provenance.compare import compare

    store = _store(run)
    found = compare(store.bill(old), store.bill(new))
    if run.json:
        run.output.document(found.document())
        return
    for name, before, after in found.packages:
        run.output.line(f"{_mark(before, after)} {name} {' -> '.join(text for text in (before, after) if text)}")
    for path, size, other in found.files:
        change = "" if None in (size, other) else f" {(other or 0) - (size or 0):+} B"
        run.output.line(f"{_mark(size, other)} /{path}{change}")
    run.output.line(f"{found.bytes:+} B")


def sbom(
    run: Invocation,
    name: NameArgument,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="Instead of printing it.")
    ] = None,
) -> None:
    """Print the bill of materials of an image, as CycloneDX 1.5 JSON.

    \b
    Example:
      whit image sbom shop-web -o shop-web.cdx.json
    """
    from whit.image.provenance import sbom as bill_of_materials

    store = _store(run)
    text = bill_of_materials.encode(bill_of_materials.document(name, store.image(name).digest, store.bill(name)))
    if output is None:
        run.output.line(text.rstrip("\n"))
    else:
        output.write_text(text)


def rm(
    run: Invocation,
    names: Annotated[list[str], typer.Argument(metavar="NAME…", help="The images.")],
) -> None:
    """Take the names of images away. `whit image gc` frees what nothing else needs.

    \b
    Example:
      whit image rm shop-web && whit image gc
    """
    wanted = tuple(dict.fromkeys(names))
    _store(run).remove(*wanted)
    if run.json:
        run.output.document({"removed": wanted})


def gc(run: Invocation) -> None:
    """Remove what no name leads to and no instance holds.

    \b
    Example:
      whit image gc
    """
    import asyncio

    from whit.cli.commands.inspection import size_text

    freed = asyncio.run(_store(run).collect())
    if run.json:
        run.output.document({"blobs": freed.blobs, "layers": freed.layers, "bytes": freed.bytes})
    else:
        run.output.line(f"removed {freed.blobs} blobs ({size_text(freed.bytes)}) and {freed.layers} unpacked layers")


def _store(run: Invocation) -> ImageStore:
    from whit.cli import local

    return local.store(run.settings)


def _below(bill: Bill, path: str) -> list[BilledFile]:
    base = posixpath.normpath(path).strip("/")
    return [file for file in bill.files if base in ("", ".") or file.path == base or file.path.startswith(f"{base}/")]


def _mark(before: Any, after: Any) -> str:
    return "+" if before in (None, "") else "-" if after in (None, "") else "~"
