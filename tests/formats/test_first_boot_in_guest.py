"""A guest reads the cloud-config of a NoCloud disk in C (init/first_boot/): whatever that accepts, it reads as the
builder does; what it does not read, it refuses with the line."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from whit.base.errors import WhitError
from whit.formats.firstboot import cloud_config
from whit.image.machines import first_boot
from whit.runtime.programs import SOURCES

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ me@home"
_PARTS = (*(f"first_boot/{part}.c" for part in ("base64", "cloud_config", "flow", "yaml")), "channel/wire.c")
_CHECKS = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-g", "-O1", "-Wall", "-Wextra", "-Werror")

Read = Callable[..., tuple[bool, bytes]]


@pytest.fixture(scope="module")
def read(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Read]:
    """What the guest makes of user-data and meta-data: entries, or what is wrong."""
    program = tmp_path_factory.mktemp("reader") / "reader"
    source = Path(__file__).with_name("cloud_config_reader.c")
    argv = ["gcc", *_CHECKS, "-std=gnu11", "-D_GNU_SOURCE", f"-I{SOURCES}", "-o", str(program), str(source)]
    subprocess.run([*argv, *(str(SOURCES / part) for part in _PARTS)], check=True, timeout=60)
    environment = {"ASAN_OPTIONS": "detect_leaks=0"}
    with subprocess.Popen([program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment) as running:
        assert running.stdin
        assert running.stdout
        writing, reading = running.stdin, running.stdout

        def ask(user_data: str, meta_data: str = "") -> tuple[bool, bytes]:
            for text in (user_data.encode(), meta_data.encode()):
                writing.write(b"%d\n%b" % (len(text), text))
            writing.flush()
            accepted, size = reading.readline().split()
            return accepted == b"1", reading.read(int(size))

        yield ask
        writing.close()


def built(text: str) -> bytes:
    """What the builder makes of it, who wants to be told something. Raises WhitError."""
    if not any(line.strip() and not line.lstrip().startswith("#") for line in text.splitlines()):
        text = "{}"
    return first_boot.disk(cloud_config.read(text, "user-data")).rstrip(b"\0")


CONFIGS = [
    "hostname: box.example\nmanage_etc_hosts: localhost\n",
    f"ssh_authorized_keys: ['{KEY}', \"{KEY}\"]\n",
    f"ssh_authorized_keys:\n- {KEY}\n  # a comment\n- {KEY} # mine\n",
    "---\nwrite_files:\n  - path: /a\n    content: |\n      1\n\n        2\n    permissions: '0600'\n    owner: 0:7\n",
    "write_files:\n  - path: /a\n    content: >-\n      one\n      two\n\n      three\n       set in\n      out\n\n",
    "write_files:\n- content: |+\n    kept\n\n\n  path: /a\n- {path: /b, content: 'it''s', append: Yes}\n",
    "write_files:\n-\n  path: /a\n  content: |2\n     two more\n  owner: 5\n",
    'write_files: [{path: /a, content: "tab\\t\\u00e9\\x41\\n"}]\n',
    "write_files: [{path: /a, encoding: b64, content: 'aGk ='}, {'path': \"/b\", append: true}]\n",
    "write_files:\n  - path: /a\n    encoding: base64\n    content: |\n      aGVs\n      bG8=\n",
    "write_files:\n  - path: /a\n    content:\n  - path: /b\n    content: ~\n",
    "write_files: []\n",
    "hostname:   box   # mine\nwrite_files:\nssh_authorized_keys: []\n",
    "write_files:\n  - path: /a # there\n    content: a#b: c#d\n".replace("b: c", "b:c"),
    "write_files:\n- path: /Makefile\n  content: |\n    all:\n    \techo\tall\n",
    "hostname: box\r\nwrite_files:\r\n  - path: /a\r\n    content: |\r\n      x\r\n",
]


@pytest.mark.parametrize("config", CONFIGS, ids=range(len(CONFIGS)))
def test_it_reads_as_the_builder_does(read: Read, config: str) -> None:
    accepted, found = read(f"#cloud-config\n{config}")
    assert (accepted, found.rstrip(b"\0")) == (True, built(f"#cloud-config\n{config}"))


def test_the_cloud_may_name_it(read: Read) -> None:
    named = built("#cloud-config\nhostname: box\n").rstrip(b"\0")
    assert read("#cloud-config\n{}\n", "instance-id: i-1\nlocal-hostname: box\n") == (True, named + b"\0\0")
    assert read("#cloud-config\nhostname: box\n", '{"local-hostname": "other"}')[1].rstrip(b"\0") == named


REFUSED = {
    "users: [core]": b"user-data, line 2: users is not honoured",
    "a\nb": b"user-data, line 3: is not set in",
    "hostname: box\nhostname: box": b"user-data, line 3: the key is there already",
    "hostname: -box": b"user-data, line 2: -box is no host name",
    "hostname: [box]": b"user-data, line 2: hostname is no text",
    "hostname: &a box": b"user-data, line 2: begins with a mark",
    "hostname: !!str box": b"user-data, line 2: begins with a mark",
    "hostname: box\n...\nhostname: other": b"user-data, line 3: begins another document",
    "hostname: box: other": b"user-data, line 2: goes on where a value has ended",
    "hostname: box\n  other": b"user-data, line 3: is not set in as what stands before it",
    "hostname: 'box": b"user-data, line 2: a quoted text has to end in its line",
    'hostname: "\\q"': b"user-data, line 2: has an escape that is not known",
    'hostname: "\\u0000"': b"user-data, line 2: has an escape that is no character",
    "\thostname: box": b"user-data, line 2: begins with a mark",
    "manage_etc_hosts: localhost": b"user-data, line 2: manage_etc_hosts needs a host name",
    "ssh_authorized_keys: [secret]": b"user-data, line 2: is no public key of SSH",
    "ssh_authorized_keys: key": b"user-data, line 2: ssh_authorized_keys is not a list",
    "write_files: [{content: x}]": b"user-data, line 2: a file has no path",
    "write_files: [{path: a}]": b"user-data, line 2: a is not a path from the root",
    "write_files: [{path: /../a}]": b"user-data, line 2: /../a is not a path from the root",
    "write_files: [{path: /a/}]": b"user-data, line 2: /a/ is not a path from the root",
    "write_files: [{path: /proc/a}]": b"user-data, line 2: /proc/a is not a path from the root, or the kernel's",
    "write_files: [{path: /a, permissions: rw}]": b"user-data, line 2: rw is not a mode",
    "write_files: [{path: /a, owner: web}]": b"user-data, line 2: web is no owner",
    "write_files: [{path: /a, defer: true}]": b"user-data, line 2: defer is not honoured",
    "write_files: [{path: /a, encoding: gzip}]": b"user-data, line 2: the encoding is none that is read here",
    "write_files: [{path: /a, encoding: b64, content: a}]": b"user-data, line 2: is not base64",
    "write_files: [{path: /a}, {path: /a}]": b"user-data, line 2: /a is written twice",
    "write_files: [{path: /a, append: maybe}]": b"user-data, line 2: append is not true or false",
    "write_files: [{path: /a, content: $private_ipv4}]": b"user-data, line 2: an address in place of a name",
    "write_files: [": b"user-data, line 2: brackets have to end in their line",
    f"write_files: {'[' * 100}": b"user-data, line 2: is nested too deep",
}


@pytest.mark.parametrize("config", REFUSED, ids=range(len(REFUSED)))
def test_it_refuses_by_name_and_line(read: Read, config: str) -> None:
    accepted, found = read(f"#cloud-config\n{config}\n")
    assert not accepted
    assert found.startswith(REFUSED[config]), found


def test_what_is_no_cloud_config(read: Read) -> None:
    for text in ("", "#!/bin/sh\n", '{"ignition": {}}', "#cloud-configuration\n", "#cloud-config-archive\n[]\n"):
        assert read(text) == (False, b"user-data does not begin with #cloud-config, and nothing else is read here")
    refused = read("#cloud-config\n", "public-keys: []\n")
    assert refused == (False, b"meta-data, line 1: public-keys is not honoured")


_WORDS = st.sampled_from(
    [
        *("hostname", "write_files", "ssh_authorized_keys", "path", "content", "append", "permissions", "owner"),
        *(
            ": ",
            ":",
            "- ",
            "-",
            "\n",
            "\n  ",
            "\n    ",
            "\n      ",
            " ",
            "[",
            "]",
            "{",
            "}",
            ", ",
            "|\n",
            ">\n",
            "|-\n",
        ),
        *(
            "'",
            '"',
            "\\",
            "#",
            " # ",
            "/a",
            "/b",
            "box",
            "0644",
            "true",
            "~",
            "null",
            "''",
            "\t",
            "é",
            "\r\n",
            "&a",
            "!",
        ),
        *("\n  - path: /a\n    content: ", "write_files:\n- path: /a\n  content: ", KEY),
    ]
)


@given(words=st.lists(_WORDS, max_size=24))
@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_it_never_reads_what_the_builder_reads_otherwise(read: Read, words: list[str]) -> None:
    text = f"#cloud-config\n{''.join(words)}"
    accepted, found = read(text)
    if not accepted:
        assert found.startswith(b"user-data"), found
        return
    try:
        wanted = built(text)
    except WhitError as error:
        raise AssertionError(f"the guest accepts {text!r}, and the builder says {error}") from error
    assert found.rstrip(b"\0") == wanted
