from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from whit.base.errors import InputError
from whit.runtime.bundle.users import Owner, accounts_of, find, groups_of, opened_below, read_below, resolve

PASSWD = (
    "root:x:0:0::/root:/bin/sh\npostgres:x:100:102:,,,:/var/lib/postgresql:/bin/bash\n7:x:9:9::/seven:\nbad:x:a:b::/:\n"
)
GROUP = "root:x:0:\npostgres:x:102:\nssl-cert:x:103:postgres\nmore:x:50:other,postgres\nbad:x:y:postgres\n"


@pytest.mark.parametrize(
    ("user", "owner"),
    [
        ("", Owner(0, 0, (0,), "/root")),
        ("root", Owner(0, 0, (0,), "/root")),
        ("postgres", Owner(100, 102, (102, 50, 103), "/var/lib/postgresql")),
        ("100", Owner(100, 102, (102, 50, 103), "/var/lib/postgresql")),
        ("postgres:ssl-cert", Owner(100, 103, (103,), "/var/lib/postgresql")),
        ("postgres:7000", Owner(100, 7000, (7000,), "/var/lib/postgresql")),
        ("1234", Owner(1234, 0, (0,), "/")),
        ("1234:postgres", Owner(1234, 102, (102,), "/")),
        ("7", Owner(9, 9, (9,), "/seven")),
    ],
)
def test_users(user: str, owner: Owner) -> None:
    assert resolve(user, PASSWD, GROUP, "db") == owner


def test_without_files_numbers_work() -> None:
    assert resolve("1000:1000", "", "", "db") == Owner(1000, 1000, (1000,), "/")
    assert resolve("", "", "", "db") == Owner(0, 0, (0,), "/root")


@pytest.mark.parametrize("user", ["nobody", "postgres:nosuch", "bad", "4294967295", "-1", "٣"])
def test_unknown_names(user: str) -> None:
    with pytest.raises(InputError) as caught:
        resolve(user, PASSWD, GROUP, "db")
    assert caught.value.place.key == "services.db.user"


@given(st.text(), st.text())
def test_any_file_is_read(passwd: str, group: str) -> None:
    accounts_of(passwd)
    groups_of(group)
    assert resolve("0:0", passwd, group, "db").gid == 0 or "0:" in group


def test_links_stay_inside(tmp_path: Path) -> None:
    (tmp_path / "outside").write_text("secret")
    root = tmp_path / "root"
    (root / "etc").mkdir(parents=True)
    (root / "real").write_text("inside")
    for name, target in {
        "absolute": "/real",
        "relative": "../real",
        "escape": "../../outside",
        "far": "/../../../outside",
        "host": str(tmp_path / "outside"),
        "chain": "absolute",
        "loop": "loop",
        "directory": "/etc",
    }.items():
        (root / "etc" / name).symlink_to(target)
    assert read_below(root, "etc/absolute") == "inside"
    assert read_below(root, "etc/relative") == "inside"
    assert read_below(root, "/etc/directory/chain") == "inside"
    for name in ("escape", "far", "host", "missing", "absolute/below", "directory"):
        assert read_below(root, f"etc/{name}") == ""
    with pytest.raises(InputError, match="more than 40 links"):
        read_below(root, "etc/loop")


def test_only_regular_files(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    assert read_below(tmp_path, "fifo") == ""
    (tmp_path / "long").write_text("x" * 100)
    assert read_below(tmp_path, "long", limit=10) == "x" * 10


def test_no_descriptor_is_left_open(tmp_path: Path) -> None:
    (tmp_path / "a/b").mkdir(parents=True)
    (tmp_path / "a/up").symlink_to("b/../../a/b/..")
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(3):
        with opened_below(tmp_path, "a/up/../a/b/../../../.."):
            pass
        with pytest.raises(FileNotFoundError), opened_below(tmp_path, "a/up/none"):
            pass
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_in_a_directory(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/passwd").write_text(PASSWD)
    assert find("postgres", tmp_path, "db").uid == 100
