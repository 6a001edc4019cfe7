"""App files that are made to break a reader: too large, too deep, too many, or written to mean two things."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from whit.base.errors import InputError
from whit.formats.app.appfile import load_app
from whit.formats.problems import InvalidApp
from whit.model.app import AppSpec
from whit.model.service import UseSpec

WEB = "services:\n  web:\n    image: x\n"
NINES = "9" * 5000


def read(directory: Path, text: str, **files: str) -> AppSpec:
    (directory / "whit.yaml").write_text(text)
    for name, content in files.items():
        (directory / name.replace("dot_", ".")).write_text(content)
    return load_app(directory, environment={})


def refused(directory: Path, text: str, **files: str) -> str:
    with pytest.raises(InputError) as caught:
        read(directory, text, **files)
    return str(caught.value).replace(f"{directory}/", "")


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (f"ports: ['{NINES}:80']", "4:13: services.web.ports[0]: "),
        (f"ports: ['80:80-{NINES}']", "4:13: services.web.ports[0]: "),
        (f"ports: [{{target: {NINES}, published: 80}}]", "4:22: services.web.ports[0].target: "),
        ("ports: ['90-80:90-80']", "4:13: services.web.ports[0]: 90-80 goes down (write the smaller port first)"),
        (f"restart: 'on-failure:{NINES}'", "4:14: services.web.restart: "),
        (f"mem_limit: {NINES}", "4:16: services.web.mem_limit: "),
        ("mem_limit: 8388608t", "4:16: services.web.mem_limit: more than 9223372036854775807 bytes"),
        (f"mem_limit: {'9' * 400}.0k", "4:16: services.web.mem_limit: "),
        (f"tmpfs: '/t:size={NINES}'", "4:12: services.web.tmpfs: "),
        ("cpus: inf", "4:11: services.web.cpus: 'inf' is not a number"),
        ("cpus: nan", "4:11: services.web.cpus: 'nan' is not a number"),
        ("pids_limit: 4194305", "4:17: services.web.pids_limit: must be at least 1 and at most 4194304"),
        (f"stop_grace_period: {'9' * 400}h", "4:24: services.web.stop_grace_period: the duration is longer"),
        (f"stop_signal: {NINES}", "4:18: services.web.stop_signal: "),
        (f"user: '{'${A:-' * 5000}{'}' * 5000}'", "nested too deeply"),
    ],
    ids=lambda value: value[:30],
)
def test_numbers_and_nesting_beyond_all_bounds_are_mistakes(tmp_path: Path, line: str, expected: str) -> None:
    assert expected in refused(tmp_path, f"{WEB}    {line}\n")


def test_the_largest_that_can_be_counted_is_read(tmp_path: Path) -> None:
    web = read(tmp_path, f"{WEB}    mem_limit: {2**63 - 1}\n    pids_limit: 4194304\n").services["web"]
    assert (web.limits.memory, web.limits.pids) == (2**63 - 1, 4194304)


@pytest.mark.parametrize("target", ["/", "//", "/.", "/d/..", "/d/../etc", "d", "../d"])
@pytest.mark.parametrize(
    "line", ["volumes: ['./a:{}']", "volumes: [{{type: bind, source: ./a, target: '{}'}}]", "tmpfs: '{}'"]
)
def test_nothing_is_mounted_on_the_root_or_past_it(tmp_path: Path, line: str, target: str) -> None:
    assert f"nothing can be mounted at '{target}'" in refused(tmp_path, f"{WEB}    {line.format(target)}\n")


# ---- environment files ----


def test_a_variable_file_that_is_nested_too_deeply_is_a_mistake_of_its_line(tmp_path: Path) -> None:
    deep = "A=1\nX=" + "${A:-" * 5000 + "}" * 5000 + "\n"
    assert ".env:2:1: X: variables are nested too deeply" in refused(tmp_path, WEB, dot_env=deep)


def test_a_variable_file_cannot_bring_a_nul(tmp_path: Path) -> None:
    assert "e:2:1: has a NUL character" in refused(tmp_path, f"{WEB}    env_file: e\n", e="A=1\nB=x\0y\n")


def test_a_byte_order_mark_is_no_part_of_a_name(tmp_path: Path) -> None:
    web = read(tmp_path, f"{WEB}    env_file: e\n", e="\ufeffA=1\n").services["web"]
    assert web.environment == {"A": "1"}


@pytest.mark.parametrize("name", ["", "A=B", "=A"])
def test_a_name_that_no_program_could_read_is_a_mistake(tmp_path: Path, name: str) -> None:
    text = f'{WEB}    environment: {{"{name}": c}}\n'
    assert f"4:19: services.web.environment.{name}: {name!r} is no variable's name" in refused(tmp_path, text)


def test_places_in_a_long_variable_file_are_exact(tmp_path: Path) -> None:
    lines = "A=1\n\n# c\nB='two\nlines'\n" * 1000
    assert "e:5002:1: the line is not understood" in refused(
        tmp_path, f"{WEB}    env_file: e\n", e=f"{lines}\n= wrong\n"
    )


# ---- time ----
#
# The bounds are many times what is needed, and a small part of what a quadratic reader would take.


def test_a_long_variable_file_takes_time_by_its_length(tmp_path: Path) -> None:
    lines = "".join(f"KEY{number}=value ${{KEY0}} {number}\n" for number in range(50_000))
    start = time.process_time()
    web = read(tmp_path, f"{WEB}    env_file: e\n", e=f"KEY0=0\n{lines}").services["web"]
    assert len(web.environment) == 50_000
    assert time.process_time() - start < 8


def test_every_port_of_the_node_is_compared_by_its_number(tmp_path: Path) -> None:
    start = time.process_time()
    both = "['1-65535:1-65535', '1-65535:1-65535/udp']"
    assert len(read(tmp_path, f"{WEB}    ports: {both}\n").services["web"].ports) == 2 * 65535
    assert time.process_time() - start < 15


@pytest.mark.parametrize("closed", [False, True])
def test_a_long_chain_of_dependencies_is_followed(tmp_path: Path, closed: bool) -> None:
    count = 3000
    lines = [f"  s{number}: {{image: x, depends_on: [s{number + 1}]}}\n" for number in range(count)]
    end = f"  s{count}: {{image: x{', depends_on: [s0]' if closed else ''}}}\n"
    text = "services:\n" + "".join(lines) + end
    if closed:
        assert f"{count + 2}:34: services.s{count}.depends_on[0]: services wait for each other: s0 -> s1 ->" in refused(
            tmp_path, text
        )
    else:
        assert len(read(tmp_path, text).services) == count + 1


def test_each_cycle_is_told_from_the_first_of_its_services(tmp_path: Path) -> None:
    text = (
        "services:\n"
        "  a: {image: x, depends_on: [b]}\n"
        "  b: {image: x, depends_on: [c, a]}\n"
        "  c: {image: x, depends_on: [c]}\n"
        "  d: {image: x, depends_on: [a]}\n"
    )
    found = refused(tmp_path, text)
    assert "3:33: services.b.depends_on[1]: services wait for each other: a -> b -> a" in found
    assert "4:30: services.c.depends_on[0]: services wait for each other: c -> c" in found
    assert found.count("wait for each other") == 2


# ---- two meanings ----


@pytest.mark.parametrize("name", ["world", "host"])
def test_a_peer_that_is_also_a_service_is_not_guessed(tmp_path: Path, name: str) -> None:
    text = f"services:\n  {name}: {{image: x}}\n  web:\n    image: x\n    uses: [{name}]\n"
    assert f"5:12: services.web.uses[0]: {name} is also a service of this app" in refused(tmp_path, text)
    named = read(tmp_path, text.replace(f"uses: [{name}]", f"uses: [{{service: {name}}}]"))
    assert named.services["web"].uses == (UseSpec(service=name),)


def test_a_tag_hides_no_other_mistake(tmp_path: Path) -> None:
    (tmp_path / "compose.yaml").write_text(
        f"{WEB}    labels: !override {{a: b}}\n    cap_add: !reset []\n    networks: [a]\n"
    )
    with pytest.raises(InvalidApp) as caught:
        load_app(tmp_path, environment={})
    assert [(problem.place.line, problem.place.key) for problem in caught.value.problems] == [
        (4, "services.web.labels"),
        (5, "services.web.cap_add"),
        (6, "services.web.networks[0]"),
    ]
