"""cloud-config and Ignition: what is honoured comes out as files; what a machine has no place for is refused by name;
every mistake has a code and a place."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from whit.base.errors import InputError
from whit.formats.firstboot import cloud_config, ignition
from whit.formats.firstboot.userdata import load_first_boot
from whit.formats.firstboot.values import AUTHORIZED_KEYS
from whit.formats.problems import InvalidApp
from whit.model.first_boot import FirstBootSpec, WrittenFile

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ me@home"
ZIPPED = base64.b64encode(gzip.compress(b"zipped\n", mtime=0)).decode()
HASH = hashlib.sha256(b"hello").hexdigest()


def load(tmp_path: Path, text: str) -> FirstBootSpec:
    (tmp_path / "user-data").write_text(text)
    return load_first_boot(tmp_path / "user-data")


def ignite(**parts: Any) -> str:
    return json.dumps({"ignition": {"version": "3.4.0"}, **parts}, indent="\t")


CLOUD = [
    ("hostname: box", WrittenFile(path="/etc/hostname", contents=b"box\n")),
    (f"ssh_authorized_keys: ['{KEY}']", WrittenFile(path=AUTHORIZED_KEYS, contents=f"{KEY}\n".encode(), mode=0o600)),
    ("write_files: [{path: /a, content: x}]", WrittenFile(path="/a", contents=b"x")),
    ("write_files: [{path: /a, permissions: '0600'}]", WrittenFile(path="/a", mode=0o600)),
    ("write_files: [{path: /a, owner: '5:6'}]", WrittenFile(path="/a", uid=5, gid=6)),
    ("write_files: [{path: /a, owner: root}]", WrittenFile(path="/a")),
    ("write_files: [{path: /a, encoding: b64, content: aGk=}]", WrittenFile(path="/a", contents=b"hi")),
    (f"write_files: [{{path: /a, encoding: gz+b64, content: {ZIPPED}}}]", WrittenFile(path="/a", contents=b"zipped\n")),
    ("write_files: [{path: /a, content: x, append: true}]", WrittenFile(path="/a", contents=b"x", append=True)),
]

IGNITION: list[tuple[dict[str, Any], WrittenFile]] = [
    (
        {"storage": {"files": [{"path": "/a", "contents": {"source": "data:,hello%20you"}}]}},
        WrittenFile(path="/a", contents=b"hello you", overwrite=False),
    ),
    (
        {
            "storage": {
                "files": [
                    {
                        "path": "/a",
                        "mode": 384,
                        "overwrite": True,
                        "user": {"id": 5},
                        "group": {"name": "root"},
                        "contents": {
                            "source": "data:text/plain;charset=utf-8;base64,aGVsbG8=",
                            "verification": {"hash": f"sha256-{HASH}"},
                        },
                    }
                ]
            }
        },
        WrittenFile(path="/a", contents=b"hello", mode=0o600, uid=5),
    ),
    (
        {
            "storage": {
                "files": [{"path": "/a", "contents": {"compression": "gzip", "source": f"data:;base64,{ZIPPED}"}}]
            }
        },
        WrittenFile(path="/a", contents=b"zipped\n", overwrite=False),
    ),
    (
        {"storage": {"files": [{"path": "/a", "append": [{"source": "data:,more"}]}]}},
        WrittenFile(path="/a", contents=b"more", append=True),
    ),
    (
        {"storage": {"directories": [{"path": "/d", "mode": 448}]}},
        WrittenFile(path="/d", kind="directory", mode=0o700, overwrite=False),
    ),
    (
        {"storage": {"links": [{"path": "/l", "target": "a/b", "overwrite": True}]}},
        WrittenFile(path="/l", kind="symlink", target="a/b"),
    ),
    (
        {"storage": {"links": [{"path": "/l", "target": "/a", "hard": True}]}},
        WrittenFile(path="/l", kind="link", target="/a", overwrite=False),
    ),
    (
        {"passwd": {"users": [{"name": "core", "sshAuthorizedKeys": [KEY]}]}},
        WrittenFile(path=AUTHORIZED_KEYS, contents=f"{KEY}\n".encode(), mode=0o600),
    ),
]


@pytest.mark.parametrize(("line", "file"), CLOUD, ids=[line[:50] for line, _ in CLOUD])
def test_cloud_config(tmp_path: Path, line: str, file: WrittenFile) -> None:
    assert load(tmp_path, f"#cloud-config\n{line}\n").files == (file,)


def test_names(tmp_path: Path) -> None:
    found = load(tmp_path, "#cloud-config\nhostname: box.example\nmanage_etc_hosts: localhost\n")
    assert found.hostname == "box.example"
    assert b"127.0.0.1 box.example" in next(one.contents for one in found.files if one.path == "/etc/hosts")
    text = ignite(storage={"files": [{"path": "/etc/hostname", "contents": {"source": "data:,box%0A"}}]})
    assert load(tmp_path, text).hostname == "box"


@pytest.mark.parametrize(("parts", "file"), IGNITION, ids=[str(number) for number in range(len(IGNITION))])
def test_ignition(tmp_path: Path, parts: dict[str, Any], file: WrittenFile) -> None:
    assert load(tmp_path, ignite(**parts)).files == (file,)


def test_directories_come_before_what_is_in_them(tmp_path: Path) -> None:
    storage = {
        "links": [{"path": "/d/l", "target": "f"}],
        "files": [{"path": "/d/f"}],
        "directories": [{"path": "/d"}],
    }
    assert [one.path for one in load(tmp_path, ignite(storage=storage)).files] == ["/d", "/d/f", "/d/l"]


@pytest.mark.parametrize("version", ignition.VERSIONS)
def test_versions(tmp_path: Path, version: str) -> None:
    assert load(tmp_path, json.dumps({"ignition": {"version": version}})).files == ()


@pytest.mark.parametrize("key", sorted(key for key in cloud_config.UNSUPPORTED if "." not in key))
def test_what_cloud_config_has_and_a_machine_has_not(tmp_path: Path, key: str) -> None:
    with pytest.raises(InvalidApp, match=f"user-data:2:1: {key}: is not honoured") as caught:
        load(tmp_path, f"#cloud-config\n{key}: x\n")
    assert caught.value.problems[0].hint == cloud_config.UNSUPPORTED[key]


@pytest.mark.parametrize("path", sorted(ignition.UNSUPPORTED))
def test_what_ignition_has_and_a_machine_has_not(tmp_path: Path, path: str) -> None:
    document: Any = "x"
    for word in reversed(path.split(".")):
        if word.endswith("[]"):
            document = {word[:-2]: [{"name": "core", **document}]}
        elif word == "resource":
            document = {"storage": {"files": [{"path": "/a", "contents": document}]}}
        else:
            document = {word: document}
    whole = {"ignition": {"version": "3.0.0", **document.pop("ignition", {})}, **document}
    with pytest.raises(InvalidApp) as caught:
        load(tmp_path, json.dumps(whole))
    problem = caught.value.problems[0]
    assert (problem.code, problem.hint) == ("unknown-key", ignition.UNSUPPORTED[path])
    assert problem.place.key.endswith(path.rpartition(".")[2])


def in_file(**keys: Any) -> str:
    return ignite(storage={"files": [{"path": "/a", **keys}]})


MISTAKES = [
    ("#!/bin/sh\necho\n", "first-boot-script", "no shell"),
    ("hostname: x\n", "first-boot-kind", "neither a cloud-config nor"),
    ("#cloud-config\nhostname: a b\n", "first-boot-hostname", "no host name"),
    ("#cloud-config\nhostnme: a\n", "unknown-key", "did you mean hostname"),
    ("#cloud-config\nssh_authorized_keys: [secret]\n", "first-boot-ssh-authorized-keys", "no public key"),
    ("#cloud-config\nmanage_etc_hosts: template\n", "first-boot-manage-etc-hosts", "not known"),
    ("#cloud-config\nmanage_etc_hosts: localhost\n", "first-boot-hosts", "needs a host name"),
    ("#cloud-config\nwrite_files: [{content: x}]\n", "first-boot-no-path", "has no path"),
    ("#cloud-config\nwrite_files: [{path: /a/../b}]\n", "first-boot-path", "not a path from the root"),
    ("#cloud-config\nwrite_files: [{path: /proc/x}]\n", "first-boot-path", "the kernel's"),
    ("#cloud-config\nwrite_files: [{path: /a, permissions: '9'}]\n", "first-boot-permissions", "not a mode"),
    ("#cloud-config\nwrite_files: [{path: /a, owner: core}]\n", "first-boot-owner", "no owner"),
    ("#cloud-config\nwrite_files: [{path: /a, encoding: rot13}]\n", "first-boot-encoding", "not known"),
    ("#cloud-config\nwrite_files: [{path: /a, encoding: b64, content: '*'}]\n", "first-boot-base64", "not base64"),
    ("#cloud-config\nwrite_files: [{path: /a, content: $private_ipv4}]\n", "first-boot-address", "not honoured"),
    ("#cloud-config\nwrite_files: [{path: /a}, {path: /a}]\n", "first-boot-twice", "written twice"),
    ("{}", "first-boot-no-ignition", "has no ignition"),
    ('{"ignition": {}}', "first-boot-no-version", "has no version"),
    ('{"ignition": {"version": "2.2.0"}}', "first-boot-version", "is not known"),
    (in_file(mode="0644x"), "first-boot-mode", "whole number"),
    (in_file(user={"name": "core"}), "first-boot-name", "is not known"),
    (in_file(contents={"source": "https://example.com"}), "first-boot-source", "is not fetched"),
    (in_file(contents={"source": "data:,x", "compression": "xz"}), "first-boot-compression", "is not known"),
    (in_file(contents={"source": "data:,x", "compression": "gzip"}), "first-boot-gzip", "is not whole"),
    (in_file(contents={"source": "data:,x", "verification": {"hash": "md5-1"}}), "first-boot-hash", "neither sha256"),
    (
        in_file(contents={"source": "data:,x", "verification": {"hash": f"sha256-{HASH}"}}),
        "first-boot-digest-mismatch",
        "not what its hash says",
    ),
    (
        in_file(contents={"source": "data:,x"}, append=[{"source": "data:,y"}]),
        "first-boot-append-and-contents",
        "both contents and append",
    ),
    (ignite(storage={"links": [{"path": "/a"}]}), "first-boot-no-target", "has no target"),
    (ignite(storage={"directories": [{"path": "/a"}], "files": [{"path": "/a"}]}), "first-boot-conflict", "and a"),
    ("{ignition: [", "input", "not YAML"),
]


@pytest.mark.parametrize(
    ("text", "code", "message"), MISTAKES, ids=[f"{code}-{n}" for n, (_, code, _) in enumerate(MISTAKES)]
)
def test_a_mistake(tmp_path: Path, text: str, code: str, message: str) -> None:
    with pytest.raises(InputError) as caught:
        load(tmp_path, text)
    found = caught.value.problems[0] if isinstance(caught.value, InvalidApp) else caught.value
    assert found.code == code
    assert message in str(caught.value)
    assert "user-data:" in str(caught.value)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        load_first_boot(tmp_path / "gone")
    assert caught.value.code == "first-boot-unreadable"


def test_what_is_unpacked_has_an_end(tmp_path: Path) -> None:
    bomb = base64.b64encode(gzip.compress(bytes(80 << 20), mtime=0)).decode()
    with pytest.raises(InvalidApp, match="more than"):
        load(tmp_path, f"#cloud-config\nwrite_files: [{{path: /a, encoding: gz+b64, content: {bomb}}}]\n")
