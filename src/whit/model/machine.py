"""Machine: a declared bootable operating system: kernel, what runs at boot, services, files and volumes.

The words are those of LinuxKit's YAML, whose files are read as they are. What a container does not say stays None, so
that its image may say it (the label org.mobyproject.config); `merged` settles that.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from whit.base.errors import InputError, Place
from whit.model.base import Noun
from whit.model.build import BuildSpec
from whit.model.machine_container import ContainerDefaults, ReadySpec

NAME = r"^[a-zA-Z0-9][a-zA-Z0-9_.-]{0,63}$"
VOLUME_NAME = r"^[a-z0-9_-]+$"

Stage = Literal["onboot", "onshutdown", "services"]
Restart = Literal["no", "on-failure", "always"]


class ImageSource(Noun):
    """Where the root file system of something comes from: a name, or parts to build it from."""

    reference: str = Field(default="", description="An image of the store, oci:PATH[:NAME] or oci-archive:PATH[:NAME].")
    build: BuildSpec | None = Field(default=None, description="What it is linked from, in place of a reference.")
    place: str = Field(default="", description="file:line, for what is found out later.")

    @property
    def title(self) -> str:
        return self.reference or "its build"

    def built_for(self, architecture: str) -> ImageSource:
        """Raises InputError: it is not built, so it is for this machine's architecture."""
        if self.build is None:
            raise InputError(
                f"the image {self.reference} is for this machine's architecture",
                place=Place(self.place),
                hint=f"say with build: what it is linked from, and it is linked for {architecture}",
                code="machine-foreign-image",
            )
        return self.model_copy(update={"build": self.build.model_copy(update={"architecture": architecture})})


class KernelSpec(Noun):
    """The kernel: Debian's cloud kernel, or one out of an image that holds it as LinuxKit's do."""

    debian: Literal["stable", "backports", "specialised", ""] = Field(
        default="", description="Debian's, of this suite; or built from its source."
    )
    image: ImageSource | None = Field(default=None, description="An image with `binary` and `tar` in it.")
    cmdline: str = Field(default="console=ttyS0", description="The command line, as it is.")
    binary: str = Field(default="kernel", description="The kernel's file in the image.")
    tar: str = Field(default="kernel.tar", description="The tar in the image with its modules; empty or none for none.")
    modules: tuple[str, ...] = Field(default=(), description="Modules that are loaded beside the usual ones.")
    ucode: str = Field(default="", description="A cpio of microcode in the image, put before everything else.")


class ContainerSpec(ContainerDefaults):
    """One entry of `onboot`, `onshutdown` or `services`."""

    name: str = Field(pattern=NAME, description="Its name, which no other of the list has.")
    source: ImageSource = Field(description="Its root file system.")
    restart: Restart = Field(default="on-failure", description="services: when it is started again.")
    after: tuple[str, ...] = Field(default=(), description="services: those that have to be ready before.")
    ready: ReadySpec = Field(default=ReadySpec(), description="services: what tells that it is ready.")
    stop_grace_period: float = Field(default=10.0, ge=0, description="Seconds between SIGTERM and SIGKILL.")
    timeout: float = Field(default=0.0, ge=0, description="onboot, onshutdown: seconds it may take; 0 for no end.")

    def merged(self, image: ContainerDefaults) -> ContainerSpec:
        """With what the image says and this does not; `binds.add` and `capabilities.add` come on top."""
        known = {name: value for name, value in image if value is not None}
        own = {name: value for name, value in self if value is not None}
        found = {**known, **own}
        for add, name in (("binds_add", "binds"), ("capabilities_add", "capabilities")):
            if extra := found.pop(add, None):
                found[name] = tuple(dict.fromkeys((*(found.get(name) or ()), *extra)))
        return ContainerSpec(**found)

    def settled(self) -> ContainerSpec:
        """As it is, with what it adds to nothing."""
        return self.merged(ContainerDefaults())


class FileSpec(Noun):
    """One entry of `files`. Of `contents`, `source`, `metadata`, `symlink` and `directory` it has exactly one."""

    path: str = Field(description="Its place in the machine.")
    directory: bool = Field(default=False, description="It is a directory.")
    symlink: str | None = Field(default=None, description="Where the link leads.")
    contents: str | None = Field(default=None, description="The text in it.")
    source: Path | None = Field(default=None, description="A file or directory of the builder.")
    metadata: Literal["yaml"] | None = Field(default=None, description="yaml: the machine file itself.")
    optional: bool = Field(default=False, description="Left out if the source cannot be read.")
    mode: int | None = Field(default=None, ge=0, le=0o7777, description="0600, of a directory 0700, if left out.")
    uid: int | str = Field(default=0, description="A number, or the name of a service whose user it is.")
    gid: int | str = Field(default=0, description="As uid.")


class VolumeSpec(Noun):
    """A directory of the machine that containers share by its name in `binds`."""

    name: str = Field(pattern=VOLUME_NAME, description="What `binds` call it.")
    source: ImageSource | None = Field(default=None, description="What is in it at first; nothing if left out.")
    readonly: bool = Field(default=False, description="Nobody may write to it.")
    format: Literal["filesystem", "oci"] = Field(default="filesystem", description="oci: the image's OCI layout.")


class MachineSpec(Noun):
    """A whole machine file, or several merged."""

    name: str = Field(description="The file's, without its ending.")
    directory: Path = Field(description="Paths start here.")
    text: str = Field(default="", description="The file itself, for files[].metadata.")
    architecture: Literal["", "amd64", "arm64"] = Field(default="", description="The machines it is for; this one's.")
    kernel: KernelSpec | None = None
    network: Literal["none", "dhcp"] = Field(default="none", description="dhcp: init asks for an address on eth0.")
    first_boot: Literal["", "nocloud"] = Field(default="", description="nocloud: a disk labelled cidata says more.")
    rest: int = Field(default=0, ge=0, le=65535, description="The port at which init tells status and logs; 0: none.")
    init: tuple[ImageSource, ...] = ()
    onboot: tuple[ContainerSpec, ...] = ()
    onshutdown: tuple[ContainerSpec, ...] = ()
    services: tuple[ContainerSpec, ...] = ()
    files: tuple[FileSpec, ...] = ()
    volumes: tuple[VolumeSpec, ...] = ()

    def built_for(self, architecture: str) -> MachineSpec:
        """The same for machines of another architecture. Raises InputError: an image of it is not built."""

        def container(one: ContainerSpec) -> ContainerSpec:
            return one.model_copy(update={"source": one.source.built_for(architecture)})

        def volume(one: VolumeSpec) -> VolumeSpec:
            source = one.source and one.source.built_for(architecture)
            return one.model_copy(update={"source": source})

        kernel = self.kernel
        if kernel and kernel.image:
            kernel = kernel.model_copy(update={"image": kernel.image.built_for(architecture)})
        update = {
            "architecture": architecture,
            "kernel": kernel,
            "init": tuple(one.built_for(architecture) for one in self.init),
            "onboot": tuple(map(container, self.onboot)),
            "onshutdown": tuple(map(container, self.onshutdown)),
            "services": tuple(map(container, self.services)),
            "volumes": tuple(map(volume, self.volumes)),
        }
        return self.model_copy(update=update)

    def stage(self, name: Stage) -> tuple[ContainerSpec, ...]:
        return {"onboot": self.onboot, "onshutdown": self.onshutdown, "services": self.services}[name]

    @property
    def containers(self) -> tuple[ContainerSpec, ...]:
        return (*self.onboot, *self.services, *self.onshutdown)
