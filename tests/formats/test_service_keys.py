"""What is honoured: each key in each of its forms, and what becomes of it."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest

from whit.formats.app.appfile import load_app
from whit.formats.problems import InvalidApp
from whit.model.app import AppSpec
from whit.model.build import DebianPart, DirectoryPart, LayoutPart, PythonPart
from whit.model.service import (
    DependencySpec,
    HealthSpec,
    LimitsSpec,
    MountSpec,
    PortSpec,
    RestartSpec,
    ScaleSpec,
    UseSpec,
)

OTHERS = """
  db: {image: x, healthcheck: {test: [CMD, ok]}}
volumes:
  data:
"""


def load(directory: Path, keys: str, file: str = "compose.yaml", **environment: str) -> AppSpec:
    lines = "".join(f"    {line}\n" for line in keys.splitlines())
    (directory / file).write_text(f"services:\n  web:\n{lines}{OTHERS}")
    return load_app(directory, environment=environment)


def volume(source: str, target: str, **more: Any) -> MountSpec:
    return MountSpec(kind="volume", source=source, target=target, **more)


CASES: list[tuple[str, str, Any]] = [
    ("command: run --name 'a b'", "command", ("run", "--name", "a b")),
    ("command: [run, 22:22, no, 1.10, '']", "command", ("run", "22:22", "no", "1.10", "")),
    ("command:", "command", None),
    ("command: []", "command", ()),
    ("scale: {idle: frozen}", "scale", ScaleSpec()),
    ("scale: {min: 1, idle: created, after: 1m30s}", "scale", ScaleSpec(min=1, idle="created", after=90)),
    ("entrypoint: /bin/run x", "entrypoint", ("/bin/run", "x")),
    (
        "environment: {A: 22:22, B: no, C: 1.10, D: true, E: '', F: 0o17, G: 2001-01-01, H: =}",
        "environment",
        {"A": "22:22", "B": "no", "C": "1.10", "D": "true", "E": "", "F": "0o17", "G": "2001-01-01", "H": "="},
    ),
    ("environment: [A=b=c, B=, HERE]", "environment", {"A": "b=c", "B": "", "HERE": "here"}),
    ("environment: {HERE: , yes: on}", "environment", {"HERE": "here", "yes": "on"}),
    ('ports: ["8080:80"]', "ports", (PortSpec(target=80, published=8080),)),
    ("ports: [22:22]", "ports", (PortSpec(target=22, published=22),)),
    ("ports: [53:53/udp]", "ports", (PortSpec(target=53, published=53, protocol="udp"),)),
    ("ports: ['127.0.0.1:1:2']", "ports", (PortSpec(target=2, published=1, host_ip="127.0.0.1"),)),
    ("ports: ['8000-8001:80-81']", "ports", (PortSpec(target=80, published=8000), PortSpec(target=81, published=8001))),
    ('ports: [{target: 80, published: "8080"}]', "ports", (PortSpec(target=80, published=8080),)),
    (
        "ports: [{target: 53, published: 5353, protocol: udp, host_ip: 10.0.0.1}]",
        "ports",
        (PortSpec(target=53, published=5353, protocol="udp", host_ip="10.0.0.1"),),
    ),
    ("volumes: [data:/d]", "mounts", (volume("data", "/d"),)),
    ("volumes: ['data:/d:ro']", "mounts", (volume("data", "/d", read_only=True),)),
    ("volumes: [{type: volume, source: data, target: /d}]", "mounts", (volume("data", "/d"),)),
    (
        "volumes: [{type: tmpfs, target: /t, tmpfs: {size: 1m, mode: 0o1770}}]",
        "mounts",
        (MountSpec(kind="tmpfs", target="/t", size=1 << 20, mode=0o1770),),
    ),
    ("tmpfs: /run", "mounts", (MountSpec(kind="tmpfs", target="/run"),)),
    (
        "tmpfs: ['/run:size=1k,mode=755,ro', /tmp]",
        "mounts",
        (
            MountSpec(kind="tmpfs", target="/run", size=1024, mode=0o755, read_only=True),
            MountSpec(kind="tmpfs", target="/tmp"),
        ),
    ),
    ("depends_on: [db]", "depends_on", {"db": DependencySpec()}),
    (
        "depends_on: {db: {condition: service_healthy, required: true}}",
        "depends_on",
        {"db": DependencySpec(condition="service_healthy")},
    ),
    ("depends_on: {db: }", "depends_on", {"db": DependencySpec()}),
    ("healthcheck: {test: exit 0}", "healthcheck", HealthSpec(test=("/bin/sh", "-c", "exit 0"))),
    ("healthcheck: {test: [CMD-SHELL, exit 0]}", "healthcheck", HealthSpec(test=("/bin/sh", "-c", "exit 0"))),
    (
        "healthcheck: {test: [CMD, a], interval: 90s, timeout: 5s, retries: 2, start_period: 1s, start_interval: 1ms}",
        "healthcheck",
        HealthSpec(test=("a",), interval=90, timeout=5, retries=2, start_period=1, start_interval=0.001),
    ),
    ("healthcheck: {test: [NONE]}", "healthcheck", None),
    ("healthcheck: {disable: true}", "healthcheck", None),
    ("restart: no", "restart", RestartSpec()),
    ('restart: "no"', "restart", RestartSpec()),
    ("restart: on-failure:3", "restart", RestartSpec(policy="on-failure", max_attempts=3)),
    ("restart: unless-stopped", "restart", RestartSpec(policy="unless-stopped")),
    ("deploy: {replicas: 3}", "replicas", 3),
    (
        "deploy: {resources: {limits: {cpus: '0.5', memory: 64m, pids: 9}}}",
        "limits",
        LimitsSpec(cpus=0.5, memory=64 << 20, pids=9),
    ),
    ("mem_limit: 64m\ncpus: 1.5\npids_limit: 9", "limits", LimitsSpec(cpus=1.5, memory=64 << 20, pids=9)),
    ("mem_limit: 64m\ndeploy: {resources: {limits: {memory: 65536k}}}", "limits", LimitsSpec(memory=64 << 20)),
    ("user: 1000:1000", "user", "1000:1000"),
    ("user: 33", "user", "33"),
    ("working_dir: /srv", "working_dir", "/srv"),
    ("read_only: true", "read_only", True),
    ("read_only: yes", "read_only", True),
    ("cap_add: [net_admin, CAP_SYS_TIME]", "cap_add", ("CAP_NET_ADMIN", "CAP_SYS_TIME")),
    ("cap_drop: [all]", "cap_drop", ("ALL",)),
    ("labels: {a: 1, b: }", "labels", {"a": "1", "b": ""}),
    ("labels: [a=1, b]", "labels", {"a": "1", "b": ""}),
    ("stop_signal: INT", "stop_signal", "SIGINT"),
    ("stop_signal: 3", "stop_signal", "SIGQUIT"),
    ("stop_grace_period: 1m30s", "stop_grace_period", 90.0),
    ("uses: [db, world, host]", "uses", (UseSpec(service="db"), UseSpec(entity="world"), UseSpec(entity="host"))),
    ("uses: [{service: db, port: 5432}]", "uses", (UseSpec(service="db", port=5432, protocol="tcp"),)),
    (
        "uses: [{cidr: 10.0.0.0/8, port: 53, protocol: udp}]",
        "uses",
        (UseSpec(cidr="10.0.0.0/8", port=53, protocol="udp"),),
    ),
    ("uses: [{entity: world, port: 443}]", "uses", (UseSpec(entity="world", port=443, protocol="tcp"),)),
    ("isolation: container", "isolation", "container"),
    ("isolation: sandbox", "isolation", "sandbox"),
    ("isolation: microvm", "isolation", "microvm"),
    ("x-note: {anything: [goes]}", "image", "x"),
    ("image: debian:12", "image", "debian:12"),
]


@pytest.mark.parametrize(("keys", "field", "expected"), CASES, ids=[case[0].splitlines()[0] for case in CASES])
def test_a_key_becomes_its_field(tmp_path: Path, keys: str, field: str, expected: object) -> None:
    image = "" if keys.startswith("image:") else "image: x\n"
    web = load(tmp_path, image + keys, HERE="here").services["web"]
    assert getattr(web, field) == expected


def test_paths_start_at_the_file(tmp_path: Path) -> None:
    keys = "image: oci:img:tag\nvolumes: [./a:/a, '../b:/b', {type: bind, source: c, target: /c, read_only: true}]"
    web = load(tmp_path, keys).services["web"]
    assert web.image == f"oci:{tmp_path}/img:tag"
    assert [mount.source for mount in web.mounts] == [f"{tmp_path}/a", f"{tmp_path.parent}/b", f"{tmp_path}/c"]
    assert not (tmp_path / "a").exists()


def test_env_files_are_read_and_environment_wins(tmp_path: Path) -> None:
    (tmp_path / "one.env").write_text("A=1\nB=1\nC=1\n")
    (tmp_path / "two.env").write_text("B=2\nC=2\n")
    keys = "image: x\nenvironment: {C: 3}\nenv_file: [one.env, {path: two.env}, {path: none.env, required: false}]"
    assert load(tmp_path, keys).services["web"].environment == {"A": "1", "B": "2", "C": "3"}


def test_parts(tmp_path: Path) -> None:
    for name in ("py", "files", "layout"):
        (tmp_path / name).mkdir()
    (tmp_path / "py/requirements.txt").touch()
    keys = "build: {parts: [debian:nginx, debian:dash=0.5, python:py, ./files, dir:files, 'oci:layout:v1', oci:layout]}"
    build = load(tmp_path, keys).services["web"].build
    assert build
    assert [part.label for part in build.parts[:4]] == ["debian:nginx", "debian:dash=0.5", "python:py", "./files"]
    assert tuple(part.model_copy(update={"label": ""}) for part in build.parts) == (
        DebianPart(name="nginx"),
        DebianPart(name="dash", version="0.5"),
        PythonPart(path=tmp_path / "py"),
        DirectoryPart(path=tmp_path / "files"),
        DirectoryPart(path=tmp_path / "files"),
        LayoutPart(path=tmp_path / "layout", reference="v1"),
        LayoutPart(path=tmp_path / "layout"),
    )


def test_needs_of_a_build_and_of_a_part(tmp_path: Path) -> None:
    (tmp_path / "files").mkdir()
    part = "{part: ./files, provides: motd, requires: [shell, certificates]}"
    build = load(tmp_path, f"build: {{needs: timezones, parts: [{part}]}}").services["web"].build
    assert build
    assert build.needs == ("timezones",)
    assert (build.parts[0].provides, build.parts[0].requires) == (("motd",), ("shell", "certificates"))


@pytest.mark.parametrize("form", ["build: ./it", "build: it", "build: {context: it}"])
@pytest.mark.parametrize(("file", "kind"), [("pyproject.toml", PythonPart), ("index.html", DirectoryPart)])
def test_a_build_directory_is_what_its_files_say(tmp_path: Path, form: str, file: str, kind: type) -> None:
    (tmp_path / "it").mkdir()
    (tmp_path / "it" / file).touch()
    build = load(tmp_path, form).services["web"].build
    assert build
    assert build.parts == (kind(path=tmp_path / "it", label=build.parts[0].label),)


SCRATCH = ["/tmp", "/run", "/var/tmp"]


@pytest.mark.parametrize(
    ("file", "keys", "read_only", "targets"),
    [
        ("whit.yaml", "", True, SCRATCH),
        ("whit.yaml", "read_only: true", True, SCRATCH),
        ("whit.yaml", "read_only: false", False, []),
        ("whit.yaml", "volumes: [data:/tmp]", True, ["/tmp", "/run", "/var/tmp"]),
        ("whit.yaml", "tmpfs: ['/run/:size=1m']", True, ["/run/", "/tmp", "/var/tmp"]),
        ("whit.yaml", "volumes: [data:/var]", True, ["/var", "/tmp", "/run"]),
        ("compose.yaml", "", False, []),
        ("compose.yaml", "read_only: true", True, []),
    ],
)
def test_declared_services_have_a_read_only_root(
    tmp_path: Path, file: str, keys: str, read_only: bool, targets: list[str]
) -> None:
    web = load(tmp_path, f"image: x\n{keys}", file).services["web"]
    assert web.read_only is read_only
    assert [mount.target for mount in web.mounts] == targets


def test_a_value_that_nobody_gives_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        web = load(tmp_path, "image: x\nenvironment: [GONE]\nuser: u$NOBODY").services["web"]
    assert (web.environment, web.user) == ({}, "u")
    assert f"{tmp_path}/compose.yaml:4:19: services.web.environment[0]: the variable GONE has no value" in caplog.text
    assert f"{tmp_path}/compose.yaml:5:11: services.web.user: the variable NOBODY is not set" in caplog.text


def test_a_dockerfile_that_is_not_read_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "pyproject.toml").touch()
    (tmp_path / "Dockerfile").touch()
    load(tmp_path, "build: .")
    assert "the Dockerfile in" in caplog.text


@pytest.mark.parametrize("off", ["{disable: true}", "{test: [NONE]}"])
def test_nobody_waits_for_a_check_that_is_switched_off(tmp_path: Path, off: str) -> None:
    (tmp_path / "whit.yaml").write_text(
        f"services:\n  db: {{image: x, healthcheck: {off}}}\n"
        "  web: {image: x, depends_on: {db: {condition: service_healthy}}}\n"
    )
    with pytest.raises(InvalidApp, match=r"whit.yaml:3:32: services.web.depends_on.db: waits until db is healthy"):
        load_app(tmp_path, environment={})


@pytest.mark.parametrize("bind", ["", ", bind: {create_host_path: true}", ", bind: {create_host_path: false}"])
def test_the_path_of_a_bind_mount_may_be_made_later_unless_that_is_switched_off(tmp_path: Path, bind: str) -> None:
    text = "services:\n  web:\n    image: x\n    volumes:\n    - {type: bind, source: ./later, target: /d%s}\n"
    (tmp_path / "whit.yaml").write_text(text % bind)
    if "false" in bind:
        with pytest.raises(InvalidApp, match=r"whit.yaml:5:56: .*create_host_path: .*/later does not exist"):
            load_app(tmp_path, environment={})
        (tmp_path / "later").mkdir()
    assert load_app(tmp_path, environment={}).services["web"].mounts[0].source == str(tmp_path / "later")


def test_every_field_that_the_model_refuses_is_told(tmp_path: Path) -> None:
    check = "{test: x, timeout: 0s, retries: 0, interval: 0s}"
    (tmp_path / "whit.yaml").write_text(f"services:\n  web: {{image: x, healthcheck: {check}}}\n")
    with pytest.raises(InvalidApp) as caught:
        load_app(tmp_path, environment={})
    assert [problem.place.key.rpartition(".")[2] for problem in caught.value.problems] == [
        "timeout",
        "retries",
        "interval",
    ]


def test_link_and_checks_with_how_the_service_runs(tmp_path: Path) -> None:
    (tmp_path / "files").mkdir()
    keys = """command: [serve, --now]
user: www
working_dir: /srv
tmpfs: /scratch
environment: {A: b}
healthcheck: {test: [CMD, probe]}
build:
  link: closure
  exclude: ["*.bc"]
  parts: [debian:nginx, {part: debian:dash, link: trim, include: usr/x}, ./files]
  check:
    - nginx -t
    - {start: [serve], http: "http://127.0.0.1/", status: 204, timeout: 5s}
    - {start: serve, tcp: 80, send: ping, contains: pong, user: root}
"""
    build = load(tmp_path, keys).services["web"].build
    assert build
    assert [part.link for part in build.parts] == ["closure", "trim", "whole"]
    assert [(part.include, part.exclude) for part in build.parts[:2]] == [((), ("*.bc",)), (("usr/x",), ("*.bc",))]
    assert [check.run or check.http or check.tcp for check in build.check] == [("nginx", "-t"), "http://127.0.0.1/", 80]
    assert (build.check[1].status, build.check[1].timeout) == (204, 5.0)
    assert build.run.commands == (("serve", "--now"), ("probe",))
    assert (build.run.user, build.run.working_dir, build.run.environment) == ("www", "/srv", {"A": "b"})
    assert build.run.memory == ("/scratch",)


@pytest.mark.parametrize(
    ("check", "said"),
    [
        ("[]", "an empty list is no command"),
        ("{start: x}", "exactly one of run, http and tcp"),
        ("{run: x, tcp: 80}", "exactly one of run, http and tcp"),
        ("{http: 'http://127.0.0.1'}", "asks a server that nobody starts"),
        ("{run: x, surprise: 1}", "surprise"),
        ("{start: x, tcp: 0}", "greater than 0"),
    ],
)
def test_bad_checks_are_told(tmp_path: Path, check: str, said: str) -> None:
    with pytest.raises(InvalidApp, match=said):
        load(tmp_path, f"build: {{parts: [debian:dash], check: [{check}]}}")


def test_bad_link_is_told(tmp_path: Path) -> None:
    with pytest.raises(InvalidApp, match="known: whole, trim, closure"):
        load(tmp_path, "build: {parts: [debian:dash], link: tiny}")
