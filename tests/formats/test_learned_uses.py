"""Learned uses as text: what is printed is a part of an app file; app files are changed where `uses` stands only."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from pathlib import Path

import pytest

from whit.base.errors import InputError
from whit.formats.app.appfile import load_app, load_app_file
from whit.formats.policy.learned import edited, fragment, replaced, written
from whit.model.learned import Learned, LearnedService, LearnedUse
from whit.model.service import UseSpec

NOON = datetime(2026, 1, 2, 12, tzinfo=UTC)
API = UseSpec(service="api", port=8000, protocol="tcp")
OUT = UseSpec(cidr="2001:db8::1/128", port=443, protocol="tcp")
DNS = UseSpec(dns="*.example.com", port=53, protocol="udp")
OLD = UseSpec(service="db")


def line(use: UseSpec, *, declared: bool = True, addresses: int = 1) -> LearnedUse:
    return LearnedUse(use=use, count=3, last=NOON, declared=declared, addresses=addresses)


LEARNED = Learned(
    app="shop",
    services={
        "web": LearnedService(uses=(line(API), line(OUT, declared=False)), unseen=(OLD,), others=("b/x by icmp",)),
        "api": LearnedService(uses=(line(DNS, addresses=2),)),
        "db": LearnedService(),
    },
    flows=10,
    since=NOON,
)
FILE = """\
name: shop   # the shop
services:
  # in front
  web:
    image: i
    uses: [db]   # everything
    command: |
      run
      it

  api:
    uses:
      - service: db
        port: 1
      - world
      # and no more
    image: i
  db:
    image: i
    labels:
      a: b
policies:
  p: {for: web, egress: [{deny: db}]}
"""


def uses(path: Path) -> dict[str, tuple[UseSpec, ...]]:
    return {name: service.uses for name, service in load_app(path).services.items()}


@pytest.mark.parametrize("use", [API, OUT, DNS, OLD, UseSpec(entity="world"), UseSpec(service="db", protocol="udp")])
def test_an_item_is_read_as_it_was(tmp_path: Path, use: UseSpec) -> None:
    text = f"services: {{web: {{image: i, uses: [{written(use)}]}}, api: {{image: i}}, db: {{image: i}}}}\n"
    (tmp_path / "whit.yaml").write_text(text)
    assert uses(tmp_path)["web"] == (use,)


def test_the_fragment_says_what_was_seen(tmp_path: Path) -> None:
    found = fragment(LEARNED)
    assert found.splitlines()[0].startswith("# learned from 10 flows since 2026-01-02 ")
    assert re.search(r"- \{service: api, port: 8000\} +# 3 times, last 2026-01-02 12:00:00$", found, re.MULTILINE)
    assert '- {cidr: "2001:db8::1/128", port: 443}  ' in found
    assert "not declared yet" in found
    assert "# 2 addresses, 3 times, last" in found
    assert "# declared and never seen: {service: db}" in found
    assert "# seen, and for `policies` to say: b/x by icmp" in found
    assert "  db:\n    uses: []\n" in found


def test_a_file_is_changed_where_uses_stands_and_nowhere_else(tmp_path: Path) -> None:
    file = tmp_path / "whit.yaml"
    file.write_text(FILE)
    file.chmod(0o640)
    after = edited(FILE, str(file), LEARNED)
    replaced(load_app_file(file), after, LEARNED)
    assert uses(file) == {"web": (API, OUT), "api": (DNS,), "db": ()}
    kept = [
        found for found in FILE.splitlines() if "uses" not in found and "- " not in found and "port: 1" not in found
    ]
    assert [found for found in file.read_text().splitlines() if found in kept] == kept
    assert (file.stat().st_mode & 0o777, [path.name for path in tmp_path.iterdir()]) == (0o640, ["whit.yaml"])
    assert edited(file.read_text(), str(file), LEARNED) == file.read_text(), "twice is as once"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (
            "services: {web: {image: i, uses: [api]}, api: {image: i}, db: {image: i}}\n",
            "1: services.db: is not written",
        ),
        ("services:\n  web: &w\n    image: i\n  api: *w\n  db: {image: i}\n", "is not written as a block of keys"),
        ("services:\n  web: &w\n    image: i\n  api: *w\n  db:\n    image: i\n", "4: services.api: is an alias"),
        (
            "x-u: &u [world]\nservices:\n  web:\n    image: i\n    uses: *u\n"
            "  api:\n    image: i\n  db:\n    image: i\n",
            "3: services.web: has uses by an alias",
        ),
    ],
)
def test_what_cannot_be_edited_by_lines_is_refused(text: str, told: str) -> None:
    with pytest.raises(InputError) as caught:
        edited(text, "whit.yaml", LEARNED)
    assert told in str(caught.value)
    assert "paste what `whit policy learn` prints" in str(caught.value)


def test_a_text_that_says_something_else_is_not_written(tmp_path: Path) -> None:
    file = tmp_path / "whit.yaml"
    file.write_text(FILE)
    after = edited(FILE, str(file), LEARNED).replace("a: b", "a: c")
    with pytest.raises(InputError, match="cannot be edited by lines"):
        replaced(load_app_file(file), after, LEARNED)
    assert file.read_text() == FILE
    assert [path.name for path in tmp_path.iterdir()] == ["whit.yaml"]
