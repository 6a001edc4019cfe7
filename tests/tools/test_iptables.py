"""Rules beside those of Docker and ufw, with packets through them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

import pytest
from support.world import NODE, OUTSIDE, POOL, World, exchange, world

from whit.base.errors import CommandError
from whit.base.settings import Settings
from whit.model.operation import take_back
from whit.tools import iptables, process
from whit.tools.iptables import Admission, AdmitTraffic

machine = [pytest.mark.root, pytest.mark.machine]

# What dockerd 27 leaves in the filter table, shortened to one network.
DOCKER = """\
*filter
:INPUT ACCEPT [0:0]
:FORWARD DROP [0:0]
:OUTPUT ACCEPT [0:0]
:DOCKER - [0:0]
:DOCKER-ISOLATION-STAGE-1 - [0:0]
:DOCKER-ISOLATION-STAGE-2 - [0:0]
:DOCKER-USER - [0:0]
-A FORWARD -j DOCKER-USER
-A FORWARD -j DOCKER-ISOLATION-STAGE-1
-A FORWARD -o docker0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A FORWARD -o docker0 -j DOCKER
-A FORWARD -i docker0 ! -o docker0 -j ACCEPT
-A FORWARD -i docker0 -o docker0 -j ACCEPT
-A DOCKER-ISOLATION-STAGE-1 -i docker0 ! -o docker0 -j DOCKER-ISOLATION-STAGE-2
-A DOCKER-ISOLATION-STAGE-1 -j RETURN
-A DOCKER-ISOLATION-STAGE-2 -o docker0 -j DROP
-A DOCKER-ISOLATION-STAGE-2 -j RETURN
-A DOCKER-USER -j RETURN
COMMIT
"""

# What `ufw enable` makes of its defaults, shortened.
UFW = """\
*filter
:INPUT DROP [0:0]
:FORWARD DROP [0:0]
:OUTPUT ACCEPT [0:0]
:ufw-before-forward - [0:0]
:ufw-before-input - [0:0]
:ufw-reject-forward - [0:0]
:ufw-user-input - [0:0]
-A INPUT -j ufw-before-input
-A INPUT -j ufw-user-input
-A FORWARD -j ufw-before-forward
-A FORWARD -j ufw-reject-forward
-A ufw-before-input -i lo -j ACCEPT
-A ufw-before-input -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A ufw-before-forward -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A ufw-user-input -p tcp -m tcp --dport 22 -j ACCEPT
COMMIT
"""


def _admission(settings: Settings) -> Admission:
    return Admission(settings.id, 0x7700, 0xFF00, POOL, settings.link_prefix, NODE, port=5353)


ADMISSION = Admission("x", 0x7700, 0xFF00, IPv4Network("10.1.0.0/16"), "w-x-", IPv4Address("10.1.0.1"))
FORWARD = [
    "-I FORWARD 1 -m mark --mark 0x7700/0xff00 -m comment --comment whit/x -j ACCEPT",
    "-I FORWARD 2 -d 10.1.0.0/16 -m conntrack --ctstate RELATED,ESTABLISHED -m comment --comment whit/x -j ACCEPT",
]


def _plan(text: str, chain: iptables.Chain = "FORWARD") -> list[str]:
    return iptables.plan(chain, iptables.parse(text)[chain], iptables.wanted_rules(ADMISSION)[chain], "whit/x")


def test_an_open_chain_needs_nothing() -> None:
    assert _plan("-P FORWARD ACCEPT\n") == []


@pytest.mark.parametrize("text", ["-P FORWARD DROP\n", "-P FORWARD ACCEPT\n-A FORWARD -j REJECT\n"])
def test_a_chain_that_may_drop_gets_our_rules_on_top(text: str) -> None:
    assert _plan(text) == FORWARD


def test_the_resolver_is_admitted_from_instances() -> None:
    ending = "--dport 53 -m comment --comment whit/x -j ACCEPT"
    assert _plan("-P INPUT DROP\n", "INPUT") == [
        f"-I INPUT 1 -d 10.1.0.1/32 -i w-x-+ -p udp -m udp {ending}",
        f"-I INPUT 2 -d 10.1.0.1/32 -i w-x-+ -p tcp -m tcp {ending}",
    ]


def test_ipv6_has_the_same_rules_for_what_is_forwarded() -> None:
    both = replace(ADMISSION, pool6=IPv6Network("fd00:1::/64"))
    rules = iptables.wanted_rules6(both)["FORWARD"]
    planned = iptables.plan("FORWARD", iptables.parse("-P FORWARD DROP\n")["FORWARD"], rules, "whit/x")
    assert planned == [FORWARD[0], FORWARD[1].replace("10.1.0.0/16", "fd00:1::/64")]


def test_the_resolver_is_admitted_by_ipv6_too() -> None:
    both = replace(ADMISSION, pool6=IPv6Network("fd00:1::/64"), resolver6=IPv6Address("fd00:1::2"))
    rules = iptables.wanted_rules6(both)["INPUT"]
    assert [" ".join(rule[:8]) for rule in rules] == [
        "-d fd00:1::2/128 -i w-x-+ -p udp -m udp",
        "-d fd00:1::2/128 -i w-x-+ -p tcp -m tcp",
    ]


OURS = "".join(f"-A FORWARD {rule.split(' ', 3)[3]}\n" for rule in FORWARD).replace("whit/x", '"whit/x"')


def test_rules_in_place_stay() -> None:
    assert _plan("-P FORWARD DROP\n" + OURS + "-A FORWARD -j DOCKER-USER\n") == []


def test_rules_that_others_have_pushed_down_move_to_the_top() -> None:
    deletions = [f"-D FORWARD {rule.split(' ', 3)[3]}" for rule in FORWARD]
    assert _plan("-P FORWARD DROP\n-A FORWARD -j DOCKER-USER\n" + OURS) == deletions + FORWARD


def test_an_old_rule_of_ours_is_replaced_and_those_of_others_are_not_touched() -> None:
    text = "-P FORWARD DROP\n-A FORWARD -m comment --comment whit/x -j ACCEPT\n"
    text += "-A FORWARD -m comment --comment whit/y -j ACCEPT\n-A FORWARD -m comment --comment 'a b' -j DROP\n"
    assert _plan(text) == ["-D FORWARD -m comment --comment whit/x -j ACCEPT", *FORWARD]


def test_rules_go_when_the_chain_is_open_again() -> None:
    assert [line.split(" ", 2)[:2] for line in _plan("-P FORWARD ACCEPT\n" + OURS)] == [["-D", "FORWARD"]] * 2


@pytest.fixture
def around(settings: Settings) -> Iterator[World]:
    """Marks what instances send, as the datapath does, and lets answers find back without masquerade."""
    with world(settings) as made:
        made.lead_back()
        mark = ["-i", f"{settings.link_prefix}+", "-j", "MARK", "--set-xmark", "0x7700/0xff00"]
        made.on_node(lambda: process.run(["iptables", "-t", "mangle", "-A", "PREROUTING", *mark]))
        yield made


async def _restore(text: str) -> None:
    await process.run(["iptables-restore"], stdin=text.encode())


async def _filter() -> str:
    return (await process.run(["iptables", "-S"])).text


class TestPackets:
    pytestmark = machine

    def test_nothing_is_done_where_everything_passes(self, around: World, settings: Settings) -> None:
        before = around.on_node(_filter)
        assert around.on_node(lambda: iptables.admit(_admission(settings))) == []
        assert around.on_node(_filter) == before
        assert exchange(around.instances[1].netns, around.outside, OUTSIDE.ip)

    @pytest.mark.parametrize("rules", [DOCKER, UFW], ids=["docker", "ufw"])
    def test_the_mesh_passes_beside_others(self, around: World, settings: Settings, rules: str) -> None:
        one, two = around.instances[1], around.instances[2]
        around.on_node(lambda: _restore(rules))
        before = around.on_node(_filter)
        for server, address in ((two.netns, two.address), (around.outside, OUTSIDE.ip)):
            with pytest.raises(TimeoutError):
                exchange(one.netns, server, address, patience=0.3)
        assert around.on_node(lambda: iptables.admit(_admission(settings)))
        assert exchange(one.netns, two.netns, two.address) == str(one.address)
        assert exchange(one.netns, around.outside, OUTSIDE.ip) == str(one.address)
        # Only what carries the mark may begin: the world may not.
        with pytest.raises(TimeoutError):
            exchange(around.outside, one.netns, one.address, patience=0.3)
        around.on_node(lambda: iptables.remove(settings.id))
        assert around.on_node(_filter) == before

    def test_the_resolver_is_reached_and_nothing_else_of_the_node(self, around: World, settings: Settings) -> None:
        one = around.instances[1]
        around.on_node(lambda: _restore(UFW))
        with pytest.raises(TimeoutError):
            exchange(one.netns, around.node, NODE, port=5353, patience=0.3)
        around.on_node(lambda: iptables.admit(_admission(settings)))
        assert exchange(one.netns, around.node, NODE, port=5353) == str(one.address)
        with pytest.raises(TimeoutError):
            exchange(one.netns, around.node, NODE, port=5354, patience=0.3)

    def test_admitting_twice_is_the_same_as_once_and_removing_too(self, around: World, settings: Settings) -> None:
        async def use() -> None:
            await _restore(UFW)
            before = await _filter()
            assert len(await iptables.admit(_admission(settings))) == 4
            admitted = await _filter()
            assert len(await iptables.found(settings.id)) == 4
            assert await iptables.admit(_admission(settings)) == []
            assert await _filter() == admitted
            await process.run(["iptables", "-I", "FORWARD", "-j", "ufw-before-forward"])
            assert len(await iptables.admit(_admission(settings))) == 4
            await process.run(["iptables", "-D", "FORWARD", "-j", "ufw-before-forward"])
            assert await _filter() == admitted
            for _ in range(2):
                await take_back([AdmitTraffic(_admission(settings))])
            assert await _filter() == before
            assert await iptables.found(settings.id) == []

        around.on_node(use)

    def test_two_agents_do_not_touch_one_anothers_rules(self, around: World, settings: Settings) -> None:
        other = Admission("other", 0x8800, 0xFF00, IPv4Network("10.9.0.0/16"), "w-other-", IPv4Address("10.9.0.1"))

        async def use() -> None:
            await _restore(UFW)
            await iptables.admit(other)
            await iptables.admit(_admission(settings))
            await iptables.remove(settings.id)
            assert len(await iptables.found("other")) == 4

        around.on_node(use)

    def test_a_transaction_that_fails_changes_nothing(self, around: World) -> None:
        async def use() -> None:
            await _restore(DOCKER)
            before = await _filter()
            with pytest.raises(CommandError):
                await iptables._restore("iptables", [*FORWARD, "-I FORWARD 1 -j NOWHERE"])
            assert await _filter() == before

        around.on_node(use)
