"""Services become entries that balance; between two states no slot or backend is missing that a frontend counts on."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from whit.datapath.abi import BackendState, FrontendKey, SlotKey
from whit.datapath.address import Address
from whit.mesh.services import Backend, Service, service_tables
from whit.model.service import PortSpec

VIP = "10.77.128.1"
WEB = PortSpec(target=8080, published=80)


def backend(number: int, *, draining: bool = False) -> Backend:
    return Backend(number, f"10.77.0.{number}", draining)


def test_every_port_of_a_virtual_address_leads_to_the_same_port() -> None:
    tables = service_tables([Service(0x8001, VIP, backends=[backend(17), backend(16)])])
    frontend = tables.frontends[FrontendKey(Address.from_ip(VIP), 0, 0)]
    assert frontend.backends == 2
    found = [tables.backends[tables.slots[SlotKey(frontend.service, slot)]] for slot in range(2)]
    assert [(str(one.address), one.port, one.state) for one in found] == [("10.77.0.16", 0, 0), ("10.77.0.17", 0, 0)]


def test_a_published_port_leads_to_its_target() -> None:
    specific = PortSpec(target=8080, published=81, host_ip="192.0.2.7")
    dns = PortSpec(target=53, published=53, protocol="udp")
    tables = service_tables([Service(0x8001, VIP, [WEB, specific, dns], [backend(16)])])
    for address, port, protocol, target in (
        ("0.0.0.0", 80, 6, 8080),
        ("192.0.2.7", 81, 6, 8080),
        ("0.0.0.0", 53, 17, 53),
    ):
        frontend = tables.frontends[FrontendKey(Address.from_ip(address), port, protocol)]
        assert tables.backends[tables.slots[SlotKey(frontend.service, 0)]].port == target
    assert len(tables.frontends) == 4
    assert len(tables.slots) == len(tables.backends) == 3


def test_a_service_without_instances_is_still_one() -> None:
    tables = service_tables([Service(0x8001, VIP, [WEB])])
    assert [value.backends for value in tables.frontends.values()] == [0, 0]
    assert not tables.slots
    assert not tables.backends


def test_who_drains_keeps_its_slot_but_takes_nothing_new() -> None:
    tables = service_tables([Service(0x8001, VIP, backends=[backend(16), backend(17, draining=True)])])
    assert {str(one.address): one.state for one in tables.backends.values()} == {
        "10.77.0.16": BackendState.ACTIVE,
        "10.77.0.17": BackendState.DRAINING,
    }
    assert {value.backends for value in tables.frontends.values()} == {2}


@given(
    st.lists(
        st.tuples(st.integers(1, 30), st.sets(st.integers(16, 60), max_size=5)), max_size=6, unique_by=lambda s: s[0]
    )
)
def test_frontends_count_slots_that_lead_to_their_own_backends(found: list[tuple[int, set[int]]]) -> None:
    services = [
        Service(
            0x8000 + number,
            f"10.77.128.{number}",
            [WEB.model_copy(update={"published": number})],
            [backend(one) for one in numbers],
        )
        for number, numbers in found
    ]
    tables = service_tables(services)
    assert len(tables.frontends) == 2 * len(services)
    for service in services:
        for key, target in (
            (FrontendKey(Address.from_ip(service.address), 0, 0), 0),
            (FrontendKey(Address.from_ip("0.0.0.0"), service.ports[0].published, 6), 8080),
        ):
            frontend = tables.frontends[key]
            leads = [
                tables.backends[tables.slots[SlotKey(frontend.service, slot)]] for slot in range(frontend.backends)
            ]
            assert {str(one.address) for one in leads} == {one.address for one in service.backends}
            assert {one.port for one in leads} <= {target}
