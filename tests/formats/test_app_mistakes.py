"""What is wrong with a file is told with its place and a remedy, all of it at once."""

from __future__ import annotations

from pathlib import Path

import pytest

from whit.base.errors import InputError
from whit.formats.app.appfile import load_app
from whit.formats.problems import InvalidApp

# Written below `services: {web: …}`: keys of the service, then where and what is told.
SERVICE_MISTAKES = [
    ("image: x\ncommand: {a: b}", "4:14: services.web.command: must be text or a list, and is a table"),
    ("image: x\ncommand: 'a", "not YAML"),
    ('image: x\ncommand: "it\'s"', "4:14: services.web.command: the words cannot be told apart"),
    ("image: x\nports: [80]", "4:13: services.web.ports[0]: names no port of the node"),
    ("image: x\nports: [a:b]", "4:13: services.web.ports[0]: 'a:b' is not a port"),
    ("image: x\nports: ['1-2:3-5']", "2 published ports for 3 ports"),
    ("image: x\nports: ['0:3']", "4:13: services.web.ports[0]: 0 is not between 1 and 65535"),
    ("image: x\nports: ['::1:80:80']", "is not a port"),
    ("image: x\nports: ['[::g]:80:80']", "'[::g]' is not an address"),
    ("image: x\nbalance: fastest", "input should be 'random' or 'maglev'"),
    ("image: x\nbalance: {affinity: soon}", "'soon' is not a duration"),
    ("image: x\negress_limit: fast", "'fast' is not a rate"),
    ("endpoints: [db:5432]", "'db' is not an address"),
    ("endpoints: [{address: 192.0.2.1}]", "field required"),
    ("image: x\nexternal_name: db.example.com", "is elsewhere"),
    ("image: x\nports: ['1:1/sctp']", "4:13: services.web.ports[0]: input should be 'tcp' or 'udp'"),
    ("image: x\nports: [{target: 80}]", "names no port of the node"),
    ("image: x\nports: [{published: 80}]", "has no target"),
    (
        "image: x\nports: [{target: 80, published: 8080, mode: host}]",
        "4:43: services.web.ports[0].mode: is not honoured",
    ),
    (
        "image: x\nports: [{target: 80, published: 70000}]",
        "4:37: services.web.ports[0].published: input should be",
    ),
    ("image: x\nports: ['80:80', '80:81']", "4:22: services.web.ports[1]: port 80/tcp is published by web already"),
    ("image: x\nvolumes: [/data]", "has no source (name a volume, as data:/data)"),
    ("image: x\nvolumes: [dat:/d]", "4:15: services.web.volumes[0]: there is no volume 'dat' (did you mean data?"),
    ("image: x\nvolumes: [data:d]", "4:15: services.web.volumes[0]: nothing can be mounted at 'd'"),
    ("image: x\nvolumes: ['data:/d:z']", "the option z is not honoured"),
    ("image: x\nvolumes: [data:/d, data:/d/]", "/d is mounted twice"),
    ("image: x\nvolumes: [{type: npipe, target: /d}]", "'npipe' is not known (known: volume, bind, tmpfs)"),
    ("image: x\nvolumes: [{type: tmpfs, target: /d, source: data}]", "a tmpfs has no source"),
    ("image: x\nvolumes: [{type: volume, source: data, target: /d, bind: {}}]", "is for another type than volume"),
    (
        "image: x\nvolumes: [{type: volume, source: data, target: /d, volume: {nocopy: true}}]",
        "4:65: services.web.volumes[0].volume.nocopy: is not honoured",
    ),
    (
        "image: x\nvolumes: [{type: bind, source: ./no, target: /d, bind: {create_host_path: false}}]",
        "/no does not exist",
    ),
    ("image: x\ntmpfs: /t:uid=1", "the option uid=1 is not honoured"),
    ("image: x\ndepends_on: [dbs]", "4:18: services.web.depends_on[0]: there is no service 'dbs' (did you mean db?)"),
    ("image: x\ndepends_on: [web]", "services wait for each other: web -> web"),
    ("image: x\ndepends_on: {db: {condition: service_healthy}}", "waits until db is healthy, which has no healthcheck"),
    (
        "image: x\ndepends_on: {db: {condition: healthy}}",
        "4:34: services.web.depends_on.db.condition: 'healthy' is not",
    ),
    ("image: x\ndepends_on: {db: {required: false}}", "required: false is not honoured"),
    ("image: x\ndepends_on: {db: {restart: true}}", "4:23: services.web.depends_on.db.restart: is not honoured"),
    ("image: x\nhealthcheck: {interval: 5s}", "4:5: services.web.healthcheck: has no test"),
    ("image: x\nhealthcheck: {test: [ls]}", "the list does not say how the check is run"),
    ("image: x\nhealthcheck: {test: x, interval: 5}", "4:38: services.web.healthcheck.interval: '5' is not a duration"),
    ("image: x\nhealthcheck: {test: x, retries: 0}", "4:37: services.web.healthcheck.retries: input should be greater"),
    ("image: x\nrestart: sometimes", "4:14: services.web.restart: 'sometimes' is not known"),
    ("image: x\nrestart: always:3", "'always:3' is not known"),
    ("image: x\nmem_limit: 64m\ndeploy: {resources: {limits: {memory: 65m}}}", "differs from services.web.mem_limit"),
    ("image: x\nmem_limit: 1m", "4:5: services.web.mem_limit: input should be greater than or equal to 6291456"),
    ("image: x\npids_limit: -1", "must be at least 1"),
    ("image: x\nworking_dir: srv", "4:18: services.web.working_dir: must be an absolute path"),
    ("image: x\nread_only: maybe", "'maybe' is not true or false"),
    ("image: x\ncap_add: [NET_ADMN]", "did you mean CAP_NET_ADMIN"),
    ("image: x\nstop_signal: SIGNOPE", "4:18: services.web.stop_signal: 'SIGNOPE' is not honoured as a signal"),
    ("image: x\nuses: [dbs]", "4:12: services.web.uses[0]: there is no service 'dbs' (did you mean db?)"),
    ("image: x\nuses: [{dns: a_b.*.org}]", "4:18: services.web.uses[0].dns: 'a_b.*.org' is no name of the DNS"),
    ("image: x\nuses: [{dns: api.shop.whit}]", "'api.shop.whit' is a name inside"),
    ("image: x\nuses: [{service: db, cidr: 10.0.0.0/8}]", "names exactly one of service, cidr, dns and entity"),
    ("image: x\nuses: [{cidr: 10.0.0.1/8}]", "'10.0.0.1/8' is not a network"),
    (
        "image: x\nisolation: jail",
        "4:16: services.web.isolation: 'jail' is not available (available: container, sandbox, microvm)",
    ),
    ("image: x\nenv_file: gone.env", "gone.env is not a file"),
    ("image: x\nenvironment: {A: [b]}", "4:22: services.web.environment.A: must be text, and is a list"),
    ("image: x\nuser: ${UNSET:?who}", "4:11: services.web.user: the variable UNSET is needed: who"),
    ("image: x\nuser: !mine y", "the tag !mine is not honoured"),
    ("image: x\nimage: y", "4:5: services.web.image: is written twice, first in line 3"),
    ("image: x\nlabels: &a {b: *a}", "the alias stands for a value that contains it"),
    ("image: x\nbuild: .", "3:5: services.web.image: has both image and build"),
    ("user: y", "2:3: services.web: has neither image nor build"),
    ("build: ./gone", "3:12: services.web.build: {dir}/gone does not exist"),
    (
        "build: docker",
        "{dir}/docker has a Dockerfile, which is not run (say what it brings with build.parts:",
    ),
    ("build: {parts: [rpm:nginx]}", "3:21: services.web.build.parts[0]: 'rpm:nginx' is not a part"),
    ("build: {parts: [nginx]}", "'nginx' is not a part"),
    ("build: {parts: ['debian:A B']}", "'A B' is no package's name"),
    ("build: {parts: [python:docker]}", "has neither of pyproject.toml and requirements.txt"),
    ("build: {parts: []}", "has no parts"),
    ("build: {}", "has exactly one of parts and context"),
]


@pytest.mark.parametrize(
    ("keys", "told"), SERVICE_MISTAKES, ids=[case[0].replace("\n", "; ") for case in SERVICE_MISTAKES]
)
def test_a_mistake_in_a_service(tmp_path: Path, keys: str, told: str) -> None:
    (tmp_path / "docker").mkdir()
    (tmp_path / "docker/Dockerfile").touch()
    lines = "".join(f"    {line}\n" for line in keys.splitlines())
    told = told.format(dir=tmp_path) if "{dir}" in told else told
    problems = problems_of(tmp_path, f"services:\n  web:\n{lines}  db: {{image: x}}\nvolumes: {{data: }}\n")
    assert len(problems) == 1
    assert told in problems[0]


FILE_MISTAKES = [
    ("", "1:1: the file is empty"),
    ("a\n", "1:1: must be a table of keys, and is text"),
    ("services:\n", "1:1: services: has no services"),
    ("name: x\n", "has no services"),
    ("services: {web: {image: x}}\n---\n", "not YAML: but found another document"),
    ("services:\n\t- x\n", "2:1: not YAML"),
    ("services: {web: {image: x}}\nname: A_b\n", "2:7: name: 'A_b' is not a valid name (lower-case letters"),
    ("services: {My_Web: {image: x}}\n", "1:12: services.My_Web: 'My_Web' is not a valid name"),
    ("services: {web: {image: x}}\nvolumes: {'a b': }\n", "2:11: volumes.a b: is no volume's name"),
    ("services: {web: {image: x}}\nservice: {}\n", "2:1: service: is not a known key (did you mean services?)"),
    (
        "services: {a: {image: x, depends_on: [b]}, b: {image: x, depends_on: [c]}, c: {image: x, depends_on: [a]}}",
        "services wait for each other: a -> b -> c -> a",
    ),
    ("services: {a: {image: x, ports: ['127.0.0.1:1:1']}, b: {image: x, ports: ['1:1']}}", "1/tcp is published by a"),
    ("x: " + "[" * 3000 + "]" * 3000, "nested too deeply"),
]


@pytest.mark.parametrize(("text", "told"), FILE_MISTAKES, ids=[case[1][:50] for case in FILE_MISTAKES])
def test_a_mistake_in_the_file(tmp_path: Path, text: str, told: str) -> None:
    assert any(told in problem for problem in problems_of(tmp_path, text))


def problems_of(directory: Path, text: str) -> list[str]:
    file = directory / "whit.yaml"
    file.write_text(text)
    with pytest.raises(InvalidApp) as caught:
        load_app(file, environment={})
    lines = caught.value.message.splitlines()
    assert len(lines) == len(caught.value.problems)
    assert all(line.startswith(f"{file}") for line in lines)
    return lines


def test_all_mistakes_are_told_at_once(tmp_path: Path) -> None:
    text = """\
name: My App
secrets: {}
services:
  web:
    image: x
    privileged: true
    ports: [80, "81:x", "82:82"]
    uses: [nobody]
    mem_limit: 1k
    working_dir: here
  db:
    restart: maybe
    working_dir: there
"""
    problems = problems_of(tmp_path, text)
    places = [line.removeprefix(f"{tmp_path}/whit.yaml:").split(": ")[0] for line in problems]
    assert places == ["1:7", "2:1", "6:5", "7:13", "7:17", "8:12", "9:5", "10:18", "11:3", "12:14", "13:18"]


def test_aliases_that_stand_for_billions_are_refused(tmp_path: Path) -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 12)]
    assert any("stands for more than 100000 values" in problem for problem in problems_of(tmp_path, "\n".join(lines)))


def test_what_was_looked_for_is_told(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no app file here") as caught:
        load_app(tmp_path)
    assert "whit.yaml, whit.yml, compose.yaml" in caught.value.hint
    with pytest.raises(InputError, match="there is no such file"):
        load_app(tmp_path / "gone.yaml")


def test_a_file_that_is_not_text(tmp_path: Path) -> None:
    (tmp_path / "whit.yaml").write_bytes(b"\xff\xfe")
    with pytest.raises(InputError, match="cannot be read"):
        load_app(tmp_path)


def test_a_mistake_reached_by_two_aliases_counts_once(tmp_path: Path) -> None:
    text = "x-h: &h {test: x, retries: no}\nservices: {a: &a {image: x, healthcheck: *h}, b: *a}\n"
    problems = problems_of(tmp_path, text)
    assert [problem.split(": ")[0] for problem in problems] == [f"{tmp_path}/whit.yaml:1:28"]
