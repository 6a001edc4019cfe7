"""The node's own table of nft over changes of the agent."""

from __future__ import annotations

from ipaddress import IPv4Network

from support.service_site import ServiceSite

from whit.base.settings import Settings
from whit.tools import nft

UNKNOWN = IPv4Network("198.18.77.0/24")


def test_a_new_agent_writes_the_table_anew_and_the_same_one_does_not(settings: Settings) -> None:
    with ServiceSite(settings) as site:
        site.up({"a": {"uses": [{"entity": "world"}]}})
        assert site.release is not None
        apps = [site.release.spec]
        made = site.run(nft.rules(settings.nft_table))
        planned = site.run(site.network.plan_node(apps))
        assert not any(isinstance(one, nft.InstallMasquerade) for one in planned), "all is as it should be"

        older = nft.Masquerade(settings.nft_table, UNKNOWN, (UNKNOWN,), settings.link_prefix)
        site.run(nft.InstallMasquerade(older).do())
        assert site.run(nft.rules(settings.nft_table)) != made
        site.network.datapath.close()
        site.network = site.run(site.open_network())
        site.run(site.network.prepare(apps))
        assert _without_handles(site.run(nft.rules(settings.nft_table))) == _without_handles(made)

        site.run(nft.remove(settings.nft_table))
        site.run(site.network.prepare(apps))
        assert _without_handles(site.run(nft.rules(settings.nft_table))) == _without_handles(made)


def _without_handles(rules: list[nft.Statement]) -> list[object]:
    return [rule["expr"] for rule in rules]
