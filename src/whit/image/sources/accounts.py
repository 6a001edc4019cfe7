"""Accounts: what the maintainer scripts of well-known servers do besides copying files, as one table.

Maintainer scripts are never run. This table says for a package which account it makes, which directories it gives to
whom, and which files and links it makes. The numbers are fixed, so that volumes keep their owners over rebuilds:
1 to 99 are those of Debian's base-passwd, 101 to 199 are this table's; a number is never given to another account.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass

from whit.image.rootfs.tree import Entry, Tree

PASSWD_MASTER = "usr/share/base-passwd/passwd.master"  # noqa: S105 - a path
GROUP_MASTER = "usr/share/base-passwd/group.master"
_ORIGIN = "base-passwd"
"""Whose the account files are, and what scripts would have made."""


@dataclass(frozen=True)
class Account:
    """A user, and the group of the same number."""

    name: str
    number: int
    home: str = "/nonexistent"
    group: str = ""

    @property
    def passwd_line(self) -> str:
        return f"{self.name}:*:{self.number}:{self.number}:{self.name}:{self.home}:/usr/sbin/nologin"

    @property
    def group_line(self) -> str:
        return f"{self.group or self.name}:*:{self.number}:"


@dataclass(frozen=True)
class Given:
    """A path that belongs to `owner` and `group`; a directory that is made if the package does not bring it."""

    path: str
    owner: str
    group: str
    mode: int
    file: bool = False


@dataclass(frozen=True)
class Server:
    """What a package's scripts would have done."""

    accounts: tuple[Account, ...] = ()
    given: tuple[Given, ...] = ()
    links: tuple[tuple[str, str], ...] = ()
    copies: tuple[tuple[str, str], ...] = ()


def _home(name: str, number: int, *directories: str, mode: int = 0o750) -> Server:
    """An account that owns `directories`, the first of which is its home."""
    given = tuple(Given(path, name, name, mode) for path in directories)
    return Server((Account(name, number, f"/{directories[0]}"),), given)


SERVERS: dict[str, Server] = {
    "postgresql-common": Server(
        (Account("postgres", 101, "/var/lib/postgresql"),),
        (
            Given("var/lib/postgresql", "postgres", "postgres", 0o755),
            Given("etc/postgresql", "postgres", "postgres", 0o755),
            Given("var/log/postgresql", "root", "postgres", 0o1775),
            Given("run/postgresql", "postgres", "postgres", 0o2775),
        ),
    ),
    "redis-tools": Server((Account("redis", 102, "/var/lib/redis"),)),
    "redis-server": Server(
        given=(
            Given("var/lib/redis", "redis", "redis", 0o750),
            Given("var/log/redis", "redis", "adm", 0o2750),
            Given("run/redis", "redis", "redis", 0o2755),
            Given("etc/redis", "redis", "redis", 0o2770),
            Given("etc/redis/redis.conf", "redis", "redis", 0o640, file=True),
        ),
    ),
    "memcached": Server((Account("memcache", 103),), (Given("run/memcached", "memcache", "memcache", 0o755),)),
    "haproxy": Server(
        (Account("haproxy", 104, "/var/lib/haproxy"),),
        (Given("var/lib/haproxy", "root", "root", 0o755), Given("run/haproxy", "haproxy", "haproxy", 0o2775)),
    ),
    "nginx-common": Server(
        given=(
            Given("var/log/nginx", "root", "adm", 0o755),
            Given("var/log/nginx/access.log", "www-data", "adm", 0o640, file=True),
            Given("var/log/nginx/error.log", "www-data", "adm", 0o640, file=True),
        ),
        links=(("etc/nginx/sites-enabled/default", "/etc/nginx/sites-available/default"),),
        copies=(("usr/share/nginx/html/index.html", "var/www/html/index.nginx-debian.html"),),
    ),
    "apache2": Server(
        given=(Given("var/log/apache2", "root", "adm", 0o750), Given("run/apache2", "root", "root", 0o755))
    ),
    "mariadb-server": _home("mysql", 105, "var/lib/mysql", "run/mysqld", "var/log/mysql"),
    "rabbitmq-server": _home("rabbitmq", 106, "var/lib/rabbitmq", "var/log/rabbitmq"),
    "mosquitto": _home("mosquitto", 107, "var/lib/mosquitto", "var/log/mosquitto", "run/mosquitto"),
    "prometheus": _home("prometheus", 108, "var/lib/prometheus"),
    "etcd-server": _home("etcd", 109, "var/lib/etcd", mode=0o700),
    "unbound": _home("unbound", 110, "var/lib/unbound", mode=0o755),
    "bind9": _home("bind", 111, "var/cache/bind", "var/lib/bind", "run/named", mode=0o775),
    "slapd": _home("openldap", 112, "var/lib/ldap", "run/slapd"),
    "varnish": _home("vcache", 113, "var/lib/varnish", mode=0o755),
    "squid": Server(
        given=(Given("var/spool/squid", "proxy", "proxy", 0o750), Given("var/log/squid", "proxy", "proxy", 0o750))
    ),
    "ssl-cert": Server((Account("ssl-cert", 114),), (Given("etc/ssl/private", "root", "ssl-cert", 0o710),)),
    "mawk": Server(links=(("usr/bin/awk", "mawk"),)),
    "gawk": Server(links=(("usr/bin/awk", "gawk"),)),
    "netcat-openbsd": Server(links=(("usr/bin/nc", "nc.openbsd"),)),
    "bash": Server(links=(("usr/bin/rbash", "bash"),)),
}
"""By the package whose scripts do it. Only packages whose scripts matter to a server in a container are here."""


def apply(tree: Tree, packages: Iterable[str]) -> None:
    """Make /etc/passwd and /etc/group, and do what the scripts of `packages` would have done."""
    servers = [SERVERS[name] for name in sorted(packages) if name in SERVERS]
    accounts = [account for server in servers for account in server.accounts]
    _write_databases(tree, accounts)
    owners = _numbers(tree, "etc/passwd")
    groups = _numbers(tree, "etc/group")
    for server in servers:
        for source, target in server.copies:
            _copy(tree, source, target)
        for path, target in server.links:
            if path not in tree:
                tree.add(Entry(path, "symlink", 0o777, target=target, origin=_ORIGIN))
        for given in server.given:
            _give(tree, given, owners[given.owner], groups[given.group])


def _write_databases(tree: Tree, accounts: list[Account]) -> None:
    for master, path, lines in (
        (PASSWD_MASTER, "etc/passwd", [account.passwd_line for account in accounts]),
        (GROUP_MASTER, "etc/group", [account.group_line for account in accounts]),
    ):
        present = tree.get(master)
        assert present is not None  # base-passwd is part of every Debian layer
        text = present.data().decode() + "".join(f"{line}\n" for line in lines)
        tree.add(Entry(path, content=text.encode(), origin=_ORIGIN))


def _numbers(tree: Tree, path: str) -> dict[str, int]:
    entry = tree.get(path)
    assert entry is not None
    rows = (line.split(":") for line in entry.data().decode().splitlines())
    return {row[0]: int(row[2]) for row in rows}


def _copy(tree: Tree, source: str, target: str) -> None:
    present = tree.get(source)
    if present is not None and target not in tree:
        tree.add(dataclasses.replace(present, path=target, inode="", origin=_ORIGIN))


def _give(tree: Tree, given: Given, uid: int, gid: int) -> None:
    present = tree.get(given.path)
    if present is None:
        present = Entry(given.path, "file" if given.file else "directory", origin=_ORIGIN)
    tree.add(dataclasses.replace(present, mode=given.mode, uid=uid, gid=gid))
