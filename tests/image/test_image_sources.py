"""Which of the host's package sources are used, how images are named, what is left out."""

from __future__ import annotations

from pathlib import Path

import pytest

from whit.base.errors import InputError, NotFound, Unavailable
from whit.image.oci import reference
from whit.image.oci.reference import PathReference, RegistryReference
from whit.image.rootfs.tree import Entry, Tree
from whit.image.sources import accounts, debian
from whit.tools import apt, apt_sources, pip

ONE_LINE = """
# deb http://one.example/ignored bookworm main
deb [signed-by=/k.gpg arch=amd64,arm64] http://one.example/debian bookworm main contrib # comment
deb-src http://one.example/debian bookworm main
deb http://one.example/debian trixie main
deb http://one.example/debian bookworm-proposed main
"""
DEB822 = """# the host's
Types: deb deb-src
URIs: http://two.example/debian
Suites: bookworm bookworm-updates sid
Components: main
Signed-By:
 -----BEGIN PGP PUBLIC KEY BLOCK-----
 .
 abc
 -----END PGP PUBLIC KEY BLOCK-----

Types: deb
URIs: http://three.example/debian-security
Suites: bookworm-security
Components: main
Enabled: no
"""


@pytest.fixture
def etc(tmp_path: Path) -> Path:
    (tmp_path / "sources.list.d").mkdir()
    return tmp_path


def test_entries_that_serve_the_release(etc: Path) -> None:
    (etc / "sources.list").write_text(ONE_LINE)
    (etc / "sources.list.d" / "debian.sources").write_text(DEB822)
    (etc / "sources.list.d" / "old.list.save").write_text("deb http://four.example bookworm main")
    assert apt_sources.host_sources("bookworm", "amd64", etc) == (
        "Types: deb\nURIs: http://one.example/debian\nSuites: bookworm\nComponents: main contrib\n"
        "Architectures: amd64\nSigned-By: /k.gpg\n"
        "\n"
        "Types: deb\nURIs: http://two.example/debian\nSuites: bookworm bookworm-updates\nComponents: main\n"
        "Architectures: amd64\nSigned-By: \n -----BEGIN PGP PUBLIC KEY BLOCK-----\n .\n abc\n"
        " -----END PGP PUBLIC KEY BLOCK-----\n"
    )


def test_entry_for_another_architecture_does_not_serve(etc: Path) -> None:
    (etc / "sources.list").write_text("deb [arch=arm64] http://one.example bookworm main")
    with pytest.raises(Unavailable, match="bookworm"):
        apt_sources.host_sources("bookworm", "amd64", etc)


@pytest.mark.parametrize("option", ["trusted=yes", "allow-insecure=yes", "allow-weak=yes"])
def test_unchecked_source_is_refused_with_its_place(etc: Path, option: str) -> None:
    (etc / "sources.list").write_text(f"\ndeb [{option}] http://one.example bookworm main\n")
    with pytest.raises(InputError, match=r"sources.list:2: .*without checking"):
        apt_sources.host_sources("bookworm", "amd64", etc)


def test_unchecked_source_in_deb822(etc: Path) -> None:
    text = "Types: deb\nURIs: http://a.example\nSuites: bookworm\nComponents: main\nTrusted: yes\n"
    (etc / "sources.list.d" / "a.sources").write_text(text)
    with pytest.raises(InputError, match=r"a.sources:1"):
        apt_sources.host_sources("bookworm", "amd64", etc)


def test_release(tmp_path: Path) -> None:
    (tmp_path / "os-release").write_text('ID=debian\nVERSION_CODENAME=bookworm\nPRETTY_NAME="Debian GNU/Linux 12"\n')
    assert apt_sources.release(tmp_path / "os-release") == "bookworm"
    (tmp_path / "os-release").write_text('ID=fedora\nPRETTY_NAME="Fedora"\n')
    with pytest.raises(Unavailable, match="Fedora"):
        apt_sources.release(tmp_path / "os-release")


@pytest.mark.parametrize(
    ("text", "full"),
    [
        ("registry.example/nginx", "registry.example/nginx:latest"),
        ("registry.example/me/app:1.2", "registry.example/me/app:1.2"),
        ("localhost:5000/a/b", "localhost:5000/a/b:latest"),
        ("registry.example/x/y@sha256:" + "a" * 64, "registry.example/x/y@sha256:" + "a" * 64),
        ("[::1]:5000/a:b", "[::1]:5000/a:b"),
    ],
)
def test_registry_names(text: str, full: str) -> None:
    assert str(reference.parse(text)) == full


def test_short_names_follow_the_machines_own_list(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "registries.conf"
    monkeypatch.setattr(reference, "SEARCH", path)
    with pytest.raises(NotFound, match="says no registry"):
        reference.parse("nginx")
    path.write_text('unqualified-search-registries = ["registry.example", "other.example"]\n')
    assert str(reference.parse("nginx")) == "registry.example/nginx:latest"
    assert str(reference.parse("me/app:1.2")) == "registry.example/me/app:1.2"
    path.write_text("unqualified-search-registries = [\n")
    with pytest.raises(InputError, match=r"registries.conf"):
        reference.parse("nginx")


@pytest.mark.parametrize(
    "text", ["", "UPPER", "a b", "a:", "-x", "a//b", "a@sha256:12", "--help", "a:t@t", "host.example/"]
)
def test_bad_names(text: str) -> None:
    with pytest.raises(InputError):
        reference.parse(text)


def test_paths() -> None:
    assert reference.parse("oci:/a/b") == PathReference(Path("/a/b"), None)
    assert reference.parse("oci-archive:x.tar:web:1") == PathReference(Path("x.tar"), "web:1")


def test_loopback() -> None:
    assert RegistryReference("127.0.0.1:5000", "a").loopback
    assert not RegistryReference("127.0.0.1.example", "a").loopback


def test_account_numbers_are_distinct_and_below_200() -> None:
    found = [account for server in accounts.SERVERS.values() for account in server.accounts]
    numbers = [account.number for account in found]
    assert len(set(numbers)) == len(numbers)
    assert all(100 < number < 200 for number in numbers)


def test_accounts_and_their_directories() -> None:
    tree = Tree()
    tree.add(Entry(accounts.PASSWD_MASTER, content=b"root:*:0:0:root:/root:/bin/bash\n"))
    tree.add(Entry(accounts.GROUP_MASTER, content=b"root:*:0:\nadm:*:4:\n"))
    tree.add(Entry("etc/redis/redis.conf", content=b"port 6379"))
    accounts.apply(tree, {"redis-server", "redis-tools", "libc6"})
    passwd, conf, state = tree.get("etc/passwd"), tree.get("etc/redis/redis.conf"), tree.get("var/lib/redis")
    assert passwd is not None
    assert conf is not None
    assert state is not None
    assert passwd.data().decode().splitlines()[1].startswith("redis:*:102:102:")
    assert (conf.mode, conf.uid, conf.data()) == (0o640, 102, b"port 6379")
    assert (state.kind, state.mode, state.uid) == ("directory", 0o750, 102)
    assert "var/lib/postgresql" not in tree


def test_script_only_packages_come_if_they_are_asked_for() -> None:
    assert "adduser" in debian.left_out(["nginx"])
    assert "adduser" not in debian.left_out(["nginx", "adduser=3.134"])


def test_platform_tags_come_newest_first() -> None:
    tags = pip.platforms("x86_64", 36)
    assert tags[0] == "manylinux_2_36_x86_64"
    assert {"manylinux2014_x86_64", "manylinux1_x86_64", "linux_x86_64"} < set(tags)
    assert "manylinux_2_37_x86_64" not in tags
    assert pip.platforms("aarch64", 36)[-3:] == ["manylinux_2_17_aarch64", "manylinux2014_aarch64", "linux_aarch64"]


def test_settings_that_say_where_pip_installs_are_not_taken_over() -> None:
    assert pip.settings({"PIP_INDEX_URL": "x", "PIP_TARGET": "/", "HOME": "/"}) == {"PIP_INDEX_URL": "x"}


def test_damaged_package_is_not_taken_from_the_cache(tmp_path: Path) -> None:
    root = apt.Root(tmp_path, tmp_path / "private", "amd64")
    package = apt.Package("a", "1", "all", "0" * 64, 1, "")
    root.archives.mkdir()
    root.path(package).write_text("tampered")
    assert not root.has(package)
    assert not root.path(package).exists()
