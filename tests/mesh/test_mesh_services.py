"""Services become entries that balance; between two states no slot or backend is missing that a frontend counts on."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from whit.datapath.abi import BackendState, FrontendFlags, FrontendKey, SlotKey
from whit.datapath.address import Address
from whit.mesh.services import (
    Backend,
    OutsideNumbers,
    Service,
    ServiceTables,
    State,
    instance_number,
    reduced,
    service_tables,
)
from whit.model.service import PortSpec

VIP, VIP6 = "10.77.128.1", "fd00::8001"
WEB = PortSpec(target=8080, published=80)


def backend(number: int, state: State = "active") -> Backend:
    return Backend(number << 16, f"10.77.0.{number}", state)


def backend6(number: int, state: State = "active") -> Backend:
    return Backend(instance_number(number, "fd00::1"), f"fd00::{number:x}", state)


def led_to(tables: ServiceTables, address: str, port: int = 0, protocol: int = 0) -> list[str]:
    """The backends of a frontend, each as often as it has slots."""
    frontend = tables.frontends[FrontendKey(Address.from_ip(address), port, protocol)]
    found = [tables.backends[tables.slots[SlotKey(frontend.service, slot)]] for slot in range(frontend.backends)]
    assert all(one.state == BackendState.ACTIVE for one in found)
    return [f"{one.address} {one.port}" for one in found]


def test_every_port_of_a_virtual_address_leads_to_the_same_port() -> None:
    tables = service_tables([Service(0x8001, (VIP,), backends=(backend(17), backend(16)))])
    frontend = tables.frontends[FrontendKey(Address.from_ip(VIP), 0, 0)]
    assert frontend.backends == 2
    found = [tables.backends[tables.slots[SlotKey(frontend.service, slot)]] for slot in range(2)]
    assert [(str(one.address), one.port, one.state) for one in found] == [("10.77.0.16", 0, 0), ("10.77.0.17", 0, 0)]


def test_a_published_port_leads_to_its_target() -> None:
    specific = PortSpec(target=8080, published=81, host_ip="192.0.2.7")
    dns = PortSpec(target=53, published=53, protocol="udp")
    tables = service_tables([Service(0x8001, (VIP,), (WEB, specific, dns), (backend(16),))])
    for address, port, protocol, target in (
        ("0.0.0.0", 80, 6, 8080),
        ("192.0.2.7", 81, 6, 8080),
        ("0.0.0.0", 53, 17, 53),
    ):
        frontend = tables.frontends[FrontendKey(Address.from_ip(address), port, protocol)]
        assert tables.backends[tables.slots[SlotKey(frontend.service, 0)]].port == target
    # Published everywhere means in both families, also where no instance has an address of the one.
    assert [tables.frontends[FrontendKey(Address.from_ip("::"), *key)].backends for key in ((80, 6), (53, 17))] == [
        0,
        0,
    ]
    assert len(tables.frontends) == 6
    assert len(tables.slots) == len(tables.backends) == 3


def test_a_service_without_instances_is_still_one() -> None:
    tables = service_tables([Service(0x8001, (VIP,), (WEB,))])
    assert [value.backends for value in tables.frontends.values()] == [0, 0, 0]
    assert not tables.slots
    assert not tables.backends


def test_who_leaves_keeps_its_flows_and_no_slot() -> None:
    backends = (backend(16), backend(17, "leaving"), backend(18, "unready"), backend(19, "down"))
    tables = service_tables([Service(0x8001, (VIP,), backends=backends)])
    assert {str(one.address): one.state for one in tables.backends.values()} == {
        "10.77.0.16": BackendState.ACTIVE,
        "10.77.0.17": BackendState.DRAINING,
        "10.77.0.18": BackendState.DRAINING,
    }
    assert led_to(tables, VIP) == ["10.77.0.16 0"]


def test_when_all_leave_they_still_take_new_flows() -> None:
    backends = (backend(16, "leaving"), backend(17, "leaving"), backend(18, "unready"))
    assert led_to(service_tables([Service(0x8001, (VIP,), backends=backends)]), VIP) == ["10.77.0.16 0", "10.77.0.17 0"]


def test_each_family_leads_to_its_own_addresses() -> None:
    both = (backend(16), backend6(16), backend(17), backend6(17))
    tables = service_tables([Service(0x8001, (VIP, VIP6), (WEB,), both)])
    assert led_to(tables, VIP) == ["10.77.0.16 0", "10.77.0.17 0"]
    assert led_to(tables, VIP6) == ["fd00::10 0", "fd00::11 0"]
    assert led_to(tables, "0.0.0.0", 80, 6) == ["10.77.0.16 8080", "10.77.0.17 8080"]
    assert led_to(tables, "::", 80, 6) == ["fd00::10 8080", "fd00::11 8080"]
    assert len(tables.backends) == len(tables.slots) == 8


def test_a_port_may_be_published_at_one_ipv6_address() -> None:
    port = PortSpec(target=8080, published=80, host_ip="2001:db8::7")
    tables = service_tables([Service(0x8001, (), (port,), (backend(16), backend6(16)))])
    assert led_to(tables, "2001:db8::7", 80, 6) == ["fd00::10 8080"]
    assert len(tables.frontends) == 1


def test_a_headless_service_has_no_address_of_its_own() -> None:
    tables = service_tables([Service(0x8001, (), backends=(backend(16),))])
    assert not tables.frontends


def test_weights_are_slots() -> None:
    backends = (Backend(1, "192.0.2.1", port=53, weight=40), Backend(2, "192.0.2.2", port=54, weight=20))
    tables = service_tables([Service(0x8001, (VIP,), (WEB,), backends)])
    assert led_to(tables, VIP) == ["192.0.2.1 53", "192.0.2.1 53", "192.0.2.2 54"]
    assert led_to(tables, "0.0.0.0", 80, 6) == led_to(tables, VIP)
    assert set(tables.backends) == {1, 2}


@given(st.dictionaries(st.integers(), st.integers(1, 65535), max_size=40))
def test_slots_are_bounded_and_nobody_loses_all(weights: dict[int, int]) -> None:
    found = reduced(weights, most=64)
    assert found.keys() == weights.keys()
    assert sum(found.values()) <= 64
    assert all(found.values())
    for one in weights:
        for other in weights:
            assert weights[one] < weights[other] or found[one] >= found[other]


def test_affinity_and_maglev_are_told_to_the_datapath() -> None:
    service = Service(0x8001, (VIP,), backends=(backend(16), backend(17)), algorithm="maglev", affinity=60)
    tables = service_tables([service])
    (frontend,) = tables.frontends.values()
    assert (frontend.flags, frontend.affinity_seconds) == (FrontendFlags.MAGLEV | FrontendFlags.AFFINITY, 60)
    assert tables.maglev == {frontend.service: ((16 << 16, 1), (17 << 16, 1))}


def test_backends_outside_keep_their_numbers_over_a_new_agent() -> None:
    first = OutsideNumbers()
    given = [first.number(1, "192.0.2.1", 53), first.number(1, "192.0.2.2", 53), first.number(2, "192.0.2.1", 53)]
    assert len(set(given)) == 3
    backends = tuple(Backend(given[at], f"192.0.2.{at + 1}", port=53) for at in range(2))
    tables = service_tables([Service(0x8001, (VIP,), backends=backends)])
    second = OutsideNumbers(tables.backends)
    assert [second.number(1, f"192.0.2.{at}", 53) for at in (1, 2)] == given[:2]
    assert second.number(1, "192.0.2.9", 53) not in given[:2]


@given(
    st.lists(
        st.tuples(st.integers(1, 30), st.sets(st.integers(16, 60), max_size=5)), max_size=6, unique_by=lambda s: s[0]
    )
)
def test_frontends_count_slots_that_lead_to_their_own_backends(found: list[tuple[int, set[int]]]) -> None:
    services = [
        Service(
            0x8000 + number,
            (f"10.77.128.{number}",),
            (WEB.model_copy(update={"published": number}),),
            tuple(backend(one) for one in numbers),
        )
        for number, numbers in found
    ]
    tables = service_tables(services)
    assert len(tables.frontends) == 3 * len(services)
    for service in services:
        for key, target in (
            (FrontendKey(Address.from_ip(service.addresses[0]), 0, 0), 0),
            (FrontendKey(Address.from_ip("0.0.0.0"), service.ports[0].published, 6), 8080),
        ):
            frontend = tables.frontends[key]
            leads = [
                tables.backends[tables.slots[SlotKey(frontend.service, slot)]] for slot in range(frontend.backends)
            ]
            assert {str(one.address) for one in leads} == {one.address for one in service.backends}
            assert {one.port for one in leads} <= {target}
