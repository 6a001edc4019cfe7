"""Reference: docs/reference/machine-file.md, written from the readers' keys, the model's words and what is refused.

Run `python -m whit.formats.machine.reference` after a change to one of them, in the project's directory.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from pydantic import BaseModel

from whit.formats.firstboot import cloud_config, ignition
from whit.formats.machine import container as machine_container
from whit.formats.machine import document as machine
from whit.formats.machine import files as machine_files
from whit.formats.machine.image import OWN
from whit.formats.machine.keys import UNSUPPORTED, Key
from whit.model.machine import ContainerSpec, FileSpec, KernelSpec, VolumeSpec
from whit.model.machine_container import ReadySpec, RuntimeSpec

TARGET = Path("docs/reference/machine-file.md")

_OPENING = """\
# Machine file

<!-- Written by `python -m whit.formats.machine.reference`; do not edit. -->

A machine file is [LinuxKit's YAML](https://github.com/linuxkit/linuxkit/blob/master/docs/yaml.md), read as it is. What
is not honoured is refused with its place, never passed over. Keys that begin with `x-` are free, for anchors and notes.
Paths start at the file's directory. Sections are handled in this order: kernel, init, volumes, onboot, onshutdown,
services, files.

What differs from LinuxKit on purpose: the first container of `onboot` that fails stops the boot with a report, and a
service that fails is started again (`restart`). How machines are made and run: [machines](../how-to/machines.md).
"""

_IMAGES = """\
## Images

`image` is the name of an image in the store (`whit image ls`), `oci:PATH[:NAME]`, `oci-archive:PATH[:NAME]`, or a
path: of an OCI layout or archive, of a directory with an app file of one service, or of one whose files are the image.
Nothing is fetched from a registry. `build` takes what `build` of an [app file](app-file.md) takes. A label
`org.mobyproject.config` of an image says what its container is like unless the file says it; `binds.add` and
`capabilities.add` come on top.

These of LinuxKit's images are not linked, and the machine file need not be changed:
"""


def page() -> str:
    """The whole page, Markdown."""
    sections = [
        _OPENING,
        _table("## Top level", ("Key", "Meaning"), machine.KEYS.items()),
        _keys("## kernel", machine.KERNEL_KEYS, KernelSpec),
        _IMAGES,
        _table("", ("Image", "What does its work"), OWN.items()),
        _keys("## onboot[], onshutdown[], services[]", machine_container.KEYS, ContainerSpec),
        "`name` and `image` (or `build`) are needed. What LinuxKit does not have:\n",
        _keys("", machine_container.OWN_KEYS, ContainerSpec),
        _fields("### runtime", RuntimeSpec),
        _fields("### services[].ready", ReadySpec),
        _keys("## files[]", machine_files.FILE_KEYS, FileSpec),
        _keys("## volumes[]", machine_files.VOLUME_KEYS, VolumeSpec),
        _table("## Not honoured", ("Key", "Instead"), UNSUPPORTED.items()),
        "# First boot\n\nWhat `whit boot --first-boot FILE` tells a machine: a cloud-config or an Ignition config.\n",
        _takes("## cloud-config", cloud_config.KEYS),
        _takes("### write_files[]", cloud_config.FILE_KEYS),
        _table("### Not honoured of cloud-config", ("Key", "Instead"), cloud_config.UNSUPPORTED.items()),
        _takes("## Ignition", ignition.KEYS),
        _table("### Not honoured of Ignition", ("Key", "Instead"), ignition.UNSUPPORTED.items()),
    ]
    return "\n".join(sections)


def _table(title: str, head: tuple[str, ...], rows: object) -> str:
    lines = [title, ""] if title else []
    lines += [f"| {' | '.join(head)} |", f"| {' | '.join('---' for _ in head)} |"]
    for key, *rest in rows:  # type: ignore[attr-defined]
        cells = (f"`{key}`", *rest)
        lines.append(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |")
    return "\n".join((*lines, ""))


def _keys(title: str, keys: Mapping[str, Key], noun: type[BaseModel]) -> str:
    def rows() -> Iterator[tuple[str, str, str]]:
        for name, key in keys.items():
            field = noun.model_fields.get(key.field)
            yield name, key.takes, (field.description if field else "") or ""

    return _table(title, ("Key", "Takes", "Meaning"), rows())


def _takes(title: str, keys: Mapping[str, Key]) -> str:
    return _table(title, ("Key", "Takes"), ((name, key.takes) for name, key in keys.items()))


def _fields(title: str, noun: type[BaseModel]) -> str:
    names = {"bind_ns": "bindNS"}
    rows = ((names.get(name, name), field.description or "") for name, field in noun.model_fields.items())
    return _table(title, ("Key", "Meaning"), rows)


if __name__ == "__main__":
    TARGET.write_text(page())
