"""The agent's nft table, with packets through it."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import IPv4Interface, IPv4Network, IPv6Network

import pytest
from support.world import NODE, OUTSIDE, POOL, UPLINK, World, exchange, world

from whit.base.errors import CommandError
from whit.base.settings import Settings
from whit.kernel.network import addresses, links, routes
from whit.kernel.network.netlink import NetlinkSocket
from whit.kernel.network.routes import Route
from whit.model.operation import take_back
from whit.tools import nft, process
from whit.tools.nft import InstallMasquerade, Masquerade

machine = [pytest.mark.root, pytest.mark.machine]


@pytest.fixture
def around(settings: Settings) -> Iterator[World]:
    with world(settings) as made:
        yield made


def _wanted(settings: Settings) -> Masquerade:
    mesh = (IPv4Network("198.18.0.0/16"), IPv4Network("10.96.0.0/16"))
    return Masquerade(settings.nft_table, POOL, mesh, settings.link_prefix)


def test_the_document_replaces_the_table_in_one_transaction() -> None:
    mesh = (IPv4Network("10.1.0.0/16"), IPv4Network("10.2.0.0/16"))
    document = nft.ruleset(Masquerade("whit_x", IPv4Network("10.1.3.0/24"), mesh, "w-x-"))
    table = {"table": {"family": "inet", "name": "whit_x"}}
    verbs = [(next(iter(item)), next(iter(next(iter(item.values()))))) for item in document["nftables"]]
    assert document["nftables"][:3] == [{"add": table}, {"delete": table}, {"add": table}]
    assert verbs[3:] == [("add", "chain"), ("add", "rule")]
    source, destination, link, statement = document["nftables"][4]["add"]["rule"]["expr"]
    assert source["match"]["right"] == {"prefix": {"addr": "10.1.3.0", "len": 24}}
    assert destination["match"]["op"] == "!="
    assert destination["match"]["right"] == {
        "set": [{"prefix": {"addr": "10.1.0.0", "len": 16}}, {"prefix": {"addr": "10.2.0.0", "len": 16}}]
    }
    assert (link["match"]["op"], link["match"]["right"]) == ("!=", "w-x-*")
    assert statement == {"masquerade": None}


def test_each_family_has_a_rule_and_the_kernel_takes_both(settings: Settings) -> None:
    pools = IPv4Network("10.1.3.0/24"), (IPv4Network("10.1.0.0/16"),)
    both = Masquerade("whit_x", *pools, "w-x-", IPv6Network("fd00:1::/64"), IPv6Network("fd00:1::/48"))
    source, destination, _, _ = nft.ruleset(both)["nftables"][5]["add"]["rule"]["expr"]
    assert source["match"]["right"] == {"prefix": {"addr": "fd00:1::", "len": 64}}
    assert destination["match"]["right"] == {"set": [{"prefix": {"addr": "fd00:1::", "len": 48}}]}


class TestPackets:
    pytestmark = machine

    def test_the_world_sees_the_node_and_instances_see_one_another(self, around: World, settings: Settings) -> None:
        one, two = around.instances[1], around.instances[2]
        with pytest.raises(TimeoutError):
            exchange(one.netns, around.outside, OUTSIDE.ip, patience=0.3)
        around.on_node(lambda: nft.apply(nft.ruleset(_wanted(settings))))
        assert exchange(one.netns, around.outside, OUTSIDE.ip) == str(UPLINK.ip)
        assert exchange(one.netns, two.netns, two.address) == str(one.address)
        assert exchange(one.netns, around.node, NODE) == str(one.address)
        assert exchange(around.node, two.netns, two.address) == str(NODE)

    def test_what_stays_in_the_mesh_keeps_its_address_on_the_uplink_too(
        self, around: World, settings: Settings
    ) -> None:
        around.lead_back()
        mesh = (IPv4Network("198.18.0.0/16"), OUTSIDE.network)
        other_node = Masquerade(settings.nft_table, POOL, mesh, settings.link_prefix)
        around.on_node(lambda: nft.apply(nft.ruleset(other_node)))
        one = around.instances[1]
        assert exchange(one.netns, around.outside, OUTSIDE.ip) == str(one.address)

    def test_what_leaves_by_the_link_of_an_instance_keeps_its_address(self, around: World, settings: Settings) -> None:
        """An address that is not of the mesh, but that an instance has."""
        one, two = around.instances[1], around.instances[2]
        foreign = IPv4Network("203.0.113.5/32")
        with NetlinkSocket.inside(two.netns) as inside, NetlinkSocket.inside(around.node) as node:
            inside.execute([addresses.add(IPv4Interface(foreign), 1)])
            node.execute([routes.add(Route(foreign, links.by_name(node, two.name).index))])
            mac = links.mac_bytes(two.inner.mac)
            node.execute([routes.neighbour(foreign.network_address, mac, links.by_name(node, two.name).index)])
        around.on_node(lambda: nft.apply(nft.ruleset(_wanted(settings))))
        assert exchange(one.netns, two.netns, foreign.network_address) == str(one.address)

    def test_applying_twice_is_the_same_as_once_and_removing_too(self, around: World, settings: Settings) -> None:
        async def use() -> None:
            for _ in range(2):
                await nft.apply(nft.ruleset(_wanted(settings)))
            assert await nft.tables() == [settings.nft_table]
            assert len(await nft.rules(settings.nft_table)) == 1
            for _ in range(2):
                await nft.remove(settings.nft_table)
            assert await nft.tables() == []
            with pytest.raises(CommandError):
                await nft.rules(settings.nft_table)

        around.on_node(use)

    def test_tables_of_others_stay(self, around: World, settings: Settings) -> None:
        async def use() -> None:
            await process.run(["nft", "add", "table", "inet", "theirs"])
            await InstallMasquerade(_wanted(settings)).do()
            await take_back([InstallMasquerade(_wanted(settings))])
            assert await nft.tables() == ["theirs"]

        around.on_node(use)

    def test_chains_of_others_that_drop_are_found(self, around: World) -> None:
        async def use() -> None:
            assert [feature.state for feature in await nft.features()] == ["works", "works"]
            chain = "{ type filter hook forward priority 0; policy drop; }"
            await process.run(["nft", f"table inet filter {{ chain forward {chain}; }}"])
            await process.run(["nft", f"table ip6 filter {{ chain forward {chain}; }}"])
            await process.run(["iptables", "-P", "FORWARD", "DROP"])
            assert await nft.blocking_chains() == ["inet filter forward"]
            assert [feature.state for feature in await nft.features()] == ["works", "degraded"]

        around.on_node(use)

    def test_probing_changes_nothing(self, around: World) -> None:
        async def use() -> str:
            await nft.features()
            return (await process.run(["nft", "list", "ruleset"])).text

        assert around.on_node(use) == ""
