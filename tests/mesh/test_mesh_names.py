"""Names: who means what by them, and the state file."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from whit.base.settings import Settings
from whit.mesh.dns import names
from whit.mesh.dns.names import NameTable

WEB, OTHER = "10.77.0.16", "10.77.0.17"
TABLE = NameTable(
    listen="10.77.0.2",
    services={"shop": {"web": ["10.77.128.1", "fd00::8001"], "db": ["10.77.128.2"]}, "blog": {"web": ["10.77.128.3"]}},
    instances={WEB: ("shop", "web-1"), "fd00::10": ("shop", "web-1"), OTHER: ("blog", "web-1")},
    aliases={"shop": {"mail": "mx.example.com"}},
)


@pytest.mark.parametrize(
    ("name", "asker", "address"),
    [
        ("web", WEB, "10.77.128.1"),
        ("web", OTHER, "10.77.128.3"),
        ("WEB.", OTHER, "10.77.128.3"),
        ("web.whit", OTHER, "10.77.128.3"),
        ("web.shop", OTHER, "10.77.128.1"),
        ("Web.Shop.Whit.", OTHER, "10.77.128.1"),
        ("db", OTHER, None),
        ("db", "10.77.0.99", None),
        ("web-1", WEB, WEB),
        ("web-1.blog.whit", WEB, OTHER),
        ("shop-web-1", WEB, WEB),
        ("shop-web-1.shop", OTHER, WEB),
        ("shop-web-1", OTHER, None),
        ("a.web.shop.whit", WEB, None),
        ("", WEB, None),
        (".", WEB, None),
        ("whit", WEB, None),
    ],
)
def test_names_are_those_of_the_askers_app(name: str, asker: str, address: str | None) -> None:
    found = names.lookup(TABLE, name, asker)
    assert (found.addresses[0] if found else None) == address


def test_a_name_has_addresses_of_both_families() -> None:
    assert names.lookup(TABLE, "web", WEB) == names.Found(["10.77.128.1", "fd00::8001"])
    assert names.lookup(TABLE, "web-1", WEB) == names.Found([WEB, "fd00::10"])


def test_a_service_may_stand_for_a_name_elsewhere() -> None:
    assert names.lookup(TABLE, "mail", WEB) == names.Found(alias="mx.example.com")
    assert names.lookup(TABLE, "mail", OTHER) is None


@given(st.text(max_size=80), st.sampled_from([WEB, OTHER, "192.0.2.1", ""]))
def test_no_text_is_too_strange(name: str, asker: str) -> None:
    names.lookup(TABLE, name, asker)
    names.is_ours(name)
    names.address_of_reverse(name)


@pytest.mark.parametrize(
    ("name", "ours"),
    [("web", True), ("x.whit.", True), ("a.b.whit", True), ("example.com", False), ("web.shop", False)],
)
def test_single_labels_and_our_domain_are_never_asked_of_others(name: str, ours: bool) -> None:
    assert names.is_ours(name) is ours


@given(st.ip_addresses())
def test_reverse_names(address: IPv4Address | IPv6Address) -> None:
    assert names.address_of_reverse(address.reverse_pointer + ".") == address


@pytest.mark.parametrize(
    "name",
    [
        "1.2.3.in-addr.arpa",
        "256.0.0.1.in-addr.arpa",
        "a.b.c.d.in-addr.arpa",
        "1.ip6.arpa",
        "g" + ".0" * 31 + ".ip6.arpa",
        "é" * 4 + ".0" * 31 + ".ip6.arpa",
    ],
)
def test_other_reverse_names_are_none(name: str) -> None:
    assert names.address_of_reverse(name) is None


def test_addresses_have_names() -> None:
    assert names.reverse_lookup(TABLE, WEB) == "web-1.shop.whit"
    assert names.reverse_lookup(TABLE, "10.77.128.3") == "web.blog.whit"
    assert names.reverse_lookup(TABLE, "fd00::8001") == "web.shop.whit"
    assert names.reverse_lookup(TABLE, "10.77.0.99") is None


def test_the_state_file_is_written_once_whole_and_for_everybody(tmp_path: Path) -> None:
    settings = Settings(id="names", run_root=tmp_path)
    before = os.umask(0o077)
    try:
        assert names.write_state(settings, TABLE)
        assert not names.write_state(settings, TABLE)
    finally:
        os.umask(before)
    path = names.state_file(settings)
    assert names.parse_state(path.read_text()) == TABLE
    assert [one.name for one in path.parent.iterdir()] == [path.name]
    assert path.stat().st_mode & 0o777 == 0o644
    assert path.parent.stat().st_mode & 0o777 == 0o755
    assert names.write_state(settings, replace(TABLE, instances={}))
    assert json.loads(path.read_text())["instances"] == {}


def test_hosts_entries_name_each_service_of_the_app_in_three_ways() -> None:
    assert names.hosts_entries({"web": ["10.77.128.1", "fd00::1"], "db": ["10.77.128.2"]}, "shop") == [
        ("10.77.128.2", ("db", "db.shop", "db.shop.whit")),
        ("10.77.128.1", ("web", "web.shop", "web.shop.whit")),
        ("fd00::1", ("web", "web.shop", "web.shop.whit")),
    ]
