"""Images that a machine file names: of the store, an OCI layout or archive, or a directory that is built.

LinuxKit's own images of an init, a container runtime and a kernel are recognised by their names: what they do is Whit's
part here, and the file need not be changed.
"""

from __future__ import annotations

import logging
from pathlib import Path

from whit.base.errors import Place
from whit.formats import shapes
from whit.formats.app.appfile import find_app_file, load_app
from whit.formats.app.parts import project
from whit.formats.machine.keys import fault
from whit.formats.nodes import Value
from whit.formats.paths import absolute
from whit.model.build import BuildSpec
from whit.model.machine import ImageSource

log = logging.getLogger(__name__)

DHCP = "linuxkit/dhcpcd"
OWN = {
    "linuxkit/init": "Whit's init",
    "linuxkit/runc": "crun",
    "linuxkit/containerd": "Whit's init",
    "linuxkit/memlogd": "Whit's init",
    DHCP: "Whit's init (network: dhcp)",
    "linuxkit/rngd": "the kernel's virtio-rng",
}
"""Images that are not linked, and what stands for them."""

_TEMPLATE = "@pkg:"
_KINDS = ("oci:", "oci-archive:")


def read_image(value: Value, directory: Path) -> ImageSource:
    """Where an image comes from. Raises InputError."""
    text = shapes.text(value)
    place = value.place
    where = f"{place.file}:{place.line}"
    if text.startswith(_TEMPLATE):
        hint = "write the image's name; a template is expanded by `linuxkit build --template`"
        raise fault("template", f"{text!r} is a template", place=place, hint=hint)
    if text.startswith(_KINDS):
        return ImageSource(reference=_layout(text, place, directory), place=where)
    if text in (".", "..") or text.startswith(("./", "../", "/", "~/")):
        return _of_path(text, place, directory, where)
    return ImageSource(reference=text, place=where)


def repository(reference: str) -> str:
    """`linuxkit/init` of `linuxkit/init:v1@sha256:…`, whatever registry's name stands before it."""
    name = reference.partition("@")[0]
    host, slash, path = name.partition("/")
    # A registry's name has a dot or a port, which the first part of a repository's never has.
    if slash and ("." in host or ":" in host):
        name = path
    head, slash, last = name.rpartition("/")
    return head + slash + last.partition(":")[0]


def stands_for(reference: str, place: Place) -> str:
    """What Whit has in place of one of LinuxKit's images; empty for every other."""
    found = OWN.get(repository(reference), "")
    if found:
        log.warning("%s: %s is not linked: %s does its work", place, reference, found)
    return found


def _layout(text: str, place: Place, directory: Path) -> str:
    kind, _, rest = text.partition(":")
    path, colon, name = rest.partition(":")
    found = absolute(path, place, directory)
    if not found.exists():
        raise fault("image-path", f"{found} does not exist", place=place, hint=f"paths start at {directory}")
    return f"{kind}:{found}{colon}{name}"


def _of_path(text: str, place: Place, directory: Path, where: str) -> ImageSource:
    """A layout or archive as it is; of every other directory, what `whit build` makes of it."""
    path = absolute(text, place, directory)
    if not path.exists():
        raise fault("image-path", f"{path} does not exist", place=place, hint=f"paths start at {directory}")
    if path.is_file():
        return ImageSource(reference=f"oci-archive:{path}", place=where)
    if (path / "oci-layout").is_file():
        return ImageSource(reference=f"oci:{path}", place=where)
    if find_app_file(path) is None:
        return ImageSource(build=BuildSpec(parts=(project(text, place, directory),)), place=where)
    app = load_app(path)
    builds = [service.build for service in app.services.values() if service.build]
    if len(builds) != 1:
        hint = "name an app file of one service, or say what is linked with build:"
        raise fault("image-of-app", f"{path} builds {len(builds)} images", place=place, hint=hint)
    return ImageSource(build=builds[0], place=where)
