"""apt: resolves and downloads Debian packages in a private root, without root rights and without touching the host.

apt checks the signatures of the lists; the digests of the packages come from those lists and are checked again here,
because apt compares only the size of a file that it finds in its archives. Which sources are used is the caller's
decision. Options: apt.conf(5), sources.list(5).
"""

from __future__ import annotations

import asyncio
import fcntl
import hashlib
import math
import re
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from whit.base.errors import CommandError, DigestMismatch, InputError, Permanent
from whit.tools import process

_UPDATE_TIMEOUT = 600.0
_DOWNLOAD_TIMEOUT = 1800.0
_INSTALL_LINE = re.compile(r"^Inst (\S+) \((\S+) .*?\[(\S+)\]\)", re.MULTILINE)
_TAKEN_OVER = re.compile(r"^Acquire::(https?|ftp|Retries|ForceIPv[46]|Check-Valid-Until|By-Hash)\b")
"""How the host reaches its mirrors: proxies, certificates, time-outs. Everything else is set here."""


@dataclass(frozen=True)
class Package:
    """One version of a package, as the signed lists describe it."""

    name: str
    version: str
    architecture: str
    sha256: str
    size: int
    control: str

    @property
    def pinned(self) -> str:
        return f"{self.name}:{self.architecture}={self.version}" if self.architecture != "all" else self.wanted

    @property
    def wanted(self) -> str:
        return f"{self.name}={self.version}"


@dataclass(frozen=True)
class Resolved:
    """`packages` sorted by name; `chosen` are the names of those that were wanted or are depended on."""

    packages: tuple[Package, ...]
    chosen: frozenset[str]


@dataclass(frozen=True)
class Root:
    """A private apt. What is below `shared` is kept and used by several at once, `private` is for one use."""

    shared: Path
    private: Path
    architecture: str

    @property
    def lists(self) -> Path:
        return self.shared / "lists"

    @property
    def archives(self) -> Path:
        return self.shared / "archives"

    @property
    def environment(self) -> dict[str, str]:
        return {"APT_CONFIG": str(self.private / "apt.conf"), "HOME": str(self.private)}

    async def prepare(self, sources: str, auth: str, present: Sequence[str] = ()) -> None:
        """Write the configuration. `sources` is deb822 text, `auth` as in apt_auth.conf(5).

        Packages that are named `present` count as installed in every version and are never fetched.
        """
        for path in (self.lists / "partial", self.archives, self.shared / "cache", self.private):
            path.mkdir(parents=True, exist_ok=True)
        (self.private / "status").write_text("".join(map(_installed, present)))
        named = self.shared / f"{hashlib.sha256(sources.encode()).hexdigest()[:16]}.sources"
        if not named.exists():  # a newer file of sources would make apt build its caches anew
            (self.private / named.name).write_text(sources)
            shutil.move(self.private / named.name, named)
        (self.private / "auth.conf").write_text(auth)
        (self.private / "auth.conf").chmod(0o600)
        inherited = await _host_configuration()
        (self.private / "apt.conf").write_text("".join(f"{line}\n" for line in [*inherited, *self._options(named)]))

    def _options(self, sources: Path) -> Iterator[str]:
        values = {
            "Dir::State::Lists": f"{self.lists}",
            "Dir::State::status": f"{self.private}/status",
            "Dir::State::extended_states": f"{self.private}/extended_states",
            "Dir::Cache": f"{self.shared}/cache",
            "Dir::Cache::archives": f"{self.private}",
            "Dir::Cache::pkgcache": f"{self.private}/pkgcache.bin",  # it holds the status file, which is private
            "Dir::Etc::SourceList": f"{sources}",
            "Dir::Etc::SourceParts": "/dev/null",
            "Dir::Etc::Parts": "/dev/null",
            "Dir::Etc::Main": "/dev/null",
            "Dir::Etc::Preferences": "/dev/null",
            "Dir::Etc::PreferencesParts": "/dev/null",
            "Dir::Etc::netrc": f"{self.private}/auth.conf",
            "Dir::Etc::netrcparts": "/dev/null",
            "Dir::Log": f"{self.private}",
            "APT::Architecture": self.architecture,
            "APT::Architectures": self.architecture,
            "APT::Install-Recommends": "false",
            "APT::Install-Suggests": "false",
            "APT::Sandbox::User": "",
            "APT::Get::Assume-Yes": "true",
            "APT::Get::List-Cleanup": "false",  # the lists of other sources, and architectures, are still in use
            "APT::Get::AllowUnauthenticated": "false",
            "Acquire::AllowInsecureRepositories": "false",
            "Acquire::AllowWeakRepositories": "false",
            "Acquire::AllowDowngradeToInsecureRepositories": "false",
            "Acquire::Languages": "none",
            "Debug::NoLocking": "true",
        }
        return (f'{name} "{value}";' for name, value in values.items())

    async def update(self, max_age: float) -> None:
        """Fetch the lists unless they are younger than `max_age` seconds, and check their signatures.

        Raises:
            Permanent: says which source failed.
        """
        with (self.shared / "lock").open("w") as lock:
            await asyncio.to_thread(fcntl.flock, lock, fcntl.LOCK_EX)
            stamp = self._stamp()
            age = time.time() - stamp.stat().st_mtime if stamp.exists() else math.inf
            if age >= max_age:
                await self._update()
                stamp.touch()

    def _stamp(self) -> Path:
        """Touched when the lists were fetched; named after the sources, since other sources mean other lists."""
        configuration = (self.private / "apt.conf").read_text()
        named = re.findall(r'^Dir::Etc::SourceList "(.*)";$', configuration, re.MULTILINE)
        return Path(named[-1]).with_suffix(".updated")

    async def _update(self) -> None:
        try:
            # Without the option a source that fails is a warning, and old lists would be used without a word.
            argv = ["apt-get", "update", "-q", "-o", "APT::Update::Error-Mode=any"]
            await process.run(argv, env=self.environment, timeout=_UPDATE_TIMEOUT)
        except CommandError as error:
            raise _refusal(error.stderr) from error

    async def resolve(self, wanted: Sequence[str], beside: Sequence[str] = ()) -> Resolved:
        """What `wanted` (NAME or NAME=VERSION) and all that it depends on needs. Raises InputError.

        Packages named `beside` come without what they depend on.
        """
        try:
            simulated = await process.run(["apt-get", "install", "-s", "-q", *wanted], env=self.environment)
        except CommandError as error:
            raise InputError(
                f"Debian cannot provide {', '.join(wanted)}:\n{_complaints(error.stderr)}",
                hint="look the name up with: apt-cache policy NAME",
                code="debian-unknown",
            ) from error
        chosen = {name.partition(":")[0]: version for name, version, _ in _INSTALL_LINE.findall(simulated.text)}
        asked = [*(f"{name}={version}" for name, version in sorted(chosen.items())), *sorted(set(beside) - set(chosen))]
        shown = await process.run(["apt-cache", "show", "--no-all-versions", *asked], env=self.environment)
        packages = {package.name: package for package in map(_package, re.split(r"\n\n+", shown.text.strip()))}
        return Resolved(tuple(packages[name] for name in sorted(packages)), frozenset(chosen))

    async def download(self, packages: Sequence[Package]) -> None:
        """Bring the packages into `archives`, with their digests checked. Raises Permanent, DigestMismatch."""
        missing = [package for package in packages if not self.has(package)]
        if not missing:
            return
        argv = ["apt-get", "download", "-q", *(package.pinned for package in missing)]
        with tempfile.TemporaryDirectory(dir=self.archives) as fetched:
            try:
                await process.run(argv, env=self.environment, cwd=fetched, timeout=_DOWNLOAD_TIMEOUT)
            except CommandError as error:
                raise Permanent(
                    f"packages cannot be fetched, or are not what the signed lists say:\n{_complaints(error.stderr)}",
                    hint="try again with fresh lists (whit build --refresh)",
                    code="debian-unfetched",
                ) from error
            for package in missing:
                self._take(package, Path(fetched))

    def path(self, package: Package) -> Path:
        """Packages are kept under their digest: two archives may have different files of one name and version."""
        return self.archives / f"{package.sha256}.deb"

    def has(self, package: Package) -> bool:
        """Whether it was downloaded before and is still what it was; a damaged file is removed."""
        path = self.path(package)
        if path.exists() and _sha256(path) != package.sha256:
            path.unlink()
        return path.exists()

    def _take(self, package: Package, directory: Path) -> None:
        escaped = package.version.replace(":", "%3a")
        fetched = directory / f"{package.name}_{escaped}_{package.architecture}.deb"
        if not fetched.exists() or _sha256(fetched) != package.sha256:
            raise DigestMismatch(
                f"{fetched.name} does not have the digest that is asked for ({package.sha256})",
                hint="the mirror is inconsistent or was tampered with; try again later or use another mirror",
                code="debian-digest",
            )
        fetched.rename(self.path(package))


def _installed(name: str) -> str:
    """A stanza of the package database (deb-control(5)), of a version that satisfies every demand."""
    return (
        f"Package: {name}\nStatus: install ok installed\nVersion: 999999\nArchitecture: all\nMulti-Arch: foreign\n"
        f"Maintainer: none <none@localhost>\nDescription: not needed\n\n"
    )


def _package(stanza: str) -> Package:
    values = dict(re.findall(r"^([A-Za-z0-9-]+): *(.*)$", stanza, re.MULTILINE))
    try:
        name, version, digest = values["Package"], values["Version"], values["SHA256"]
        return Package(name, version, values["Architecture"], digest, int(values["Size"]), stanza)
    except KeyError as error:
        raise Permanent(f"the list entry of {values.get('Package', 'a package')} has no field {error}") from error


async def _host_configuration() -> list[str]:
    dump = await process.run(["apt-config", "dump"])
    return [line for line in dump.text.splitlines() if _TAKEN_OVER.match(line)]


def _refusal(stderr: str) -> Permanent:
    """Why lists are not taken, by what apt says of them; its lines name the repository and the key."""
    told = _complaints(stderr)
    if "EXPKEYSIG" in stderr:
        hint = "get its new key from whoever runs it, and name that with Signed-By in /etc/apt/sources.list.d"
        text = f"the key that a repository is signed with has expired:\n{told}"
        return Permanent(text, hint=hint, code="repository-key-expired")
    if "NO_PUBKEY" in stderr:
        hint = "name the repository's key with Signed-By in its entry in /etc/apt/sources.list.d"
        return Permanent(
            f"a repository is not signed by a known key:\n{told}", hint=hint, code="repository-key-missing"
        )
    if "is not signed" in stderr:
        hint = "nothing vouches for what it has: use another, or take its entry out of /etc/apt/sources.list.d"
        return Permanent(f"a repository is not signed:\n{told}", hint=hint, code="repository-not-signed")
    if "is expired" in stderr or "is not valid yet" in stderr:
        hint = "its mirror stands still, or this clock is wrong: use another mirror, or set the clock"
        return Permanent(f"the lists of a repository are too old:\n{told}", hint=hint, code="repository-expired")
    hint = "check the network and the entries in /etc/apt that serve this release"
    text = f"the package lists cannot be fetched, or are not what was signed:\n{told}"
    return Permanent(text, hint=hint, code="repository-untrusted")


def _complaints(stderr: str) -> str:
    lines = [line for line in stderr.splitlines() if line.startswith(("E:", "W:", "Err:"))]
    return "\n".join(lines or stderr.splitlines()[-6:])


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
