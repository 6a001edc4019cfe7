"""Random policies of every tier over apps x, y and z of services a, b and c, as Kubernetes' tests of policy have them.

`sets` are of what the reference in mesh/policy_semantics.py knows; `wide_sets` speak of IPv6, ICMPv6, the node and odd
ranges too.
"""

from __future__ import annotations

from hypothesis import strategies as st

from whit.model.policy import PeerSpec, PolicyPort, PolicyRuleSpec, PolicySpec
from whit.model.selector import LabelSelector, Requirement

Rules = st.SearchStrategy[tuple[PolicyRuleSpec, ...]]
Policies = st.SearchStrategy[list[PolicySpec]]

values = st.sampled_from("abc")
requirements = st.one_of(
    st.builds(
        Requirement, key=st.sampled_from(["pod", "ns", "no"]), operator=st.sampled_from(["Exists", "DoesNotExist"])
    ),
    st.builds(
        Requirement,
        key=st.sampled_from(["pod", "no"]),
        operator=st.sampled_from(["In", "NotIn"]),
        values=st.lists(values, min_size=1, max_size=2).map(tuple),
    ),
)
service_selectors = st.builds(
    LabelSelector,
    match_labels=st.dictionaries(st.just("pod"), values, max_size=1),
    match_expressions=st.lists(requirements, max_size=1).map(tuple),
)
app_selectors = st.builds(
    LabelSelector,
    match_labels=st.dictionaries(
        st.sampled_from(["ns", "kubernetes.io/metadata.name"]), st.sampled_from("xyz"), max_size=1
    ),
)
services = st.one_of(
    st.builds(PeerSpec, services=service_selectors),
    st.builds(PeerSpec, apps=app_selectors),
    st.builds(PeerSpec, services=service_selectors, apps=app_selectors),
)
blocks = st.sampled_from(
    [
        PeerSpec(cidr="203.0.113.0/24"),
        PeerSpec(cidr="203.0.113.0/24", excepted=("203.0.113.128/25",)),
        PeerSpec(cidr="203.0.113.128/25"),
        PeerSpec(cidr="0.0.0.0/1"),
        PeerSpec(entity="world"),
    ]
)
wide_blocks = st.sampled_from(
    [
        PeerSpec(cidr="0.0.0.0/0"),
        PeerSpec(cidr="::/0", excepted=("2001:db8:1::/48",)),
        PeerSpec(cidr="2001:db8:1::/48", excepted=("2001:db8:1:8000::/49",)),
        PeerSpec(cidr="2001:db8:1:8000::/49"),
        PeerSpec(cidr="10.0.0.0/8"),
        PeerSpec(cidr="192.0.2.0/24"),
        PeerSpec(entity="host"),
    ]
)
ports = st.one_of(
    st.builds(PolicyPort, protocol=st.sampled_from(["tcp", "udp", "sctp"]), port=st.sampled_from([None, 80, 81])),
    st.just(PolicyPort(port=79, end_port=81)),
    st.builds(PolicyPort, protocol=st.sampled_from(["tcp", "udp"]), port=st.sampled_from(["http", "dns", "none"])),
    st.sampled_from([PolicyPort(protocol="icmp"), PolicyPort(protocol="icmp", icmp_type=8)]),
)
wide_ports = st.sampled_from(
    [
        PolicyPort(port=1, end_port=80),
        PolicyPort(port=80, end_port=65535),
        PolicyPort(protocol="udp", port=53, end_port=8081),
        PolicyPort(protocol="sctp", port=79, end_port=80),
        PolicyPort(protocol="icmpv6"),
        PolicyPort(protocol="icmpv6", icmp_type=128, icmp_code=0),
        PolicyPort(protocol="icmp", icmp_type=13),
    ]
)
directions = st.sampled_from(["egress", "ingress"])
modes = st.sampled_from(["enforce", "enforce", "enforce", "audit"])
both = st.lists(directions, min_size=1, max_size=2, unique=True).map(tuple)


def rules(actions: list[str], peers: st.SearchStrategy[PeerSpec], ports: st.SearchStrategy[PolicyPort]) -> Rules:
    rule = st.builds(
        PolicyRuleSpec,
        direction=directions,
        action=st.sampled_from(actions),
        peers=st.lists(peers, max_size=2).map(tuple),
        ports=st.lists(ports, max_size=2).map(tuple),
    )
    return st.lists(rule, max_size=3).map(tuple)


def unlike(policies: list[PolicySpec]) -> list[PolicySpec]:
    """Names are unique, and with them the order of policies of one priority."""
    return [one.model_copy(update={"name": f"{one.name}{number}"}) for number, one in enumerate(policies)]


def of_app(policy: PolicySpec, app: str) -> PolicySpec:
    """A policy of the cluster, as an app's."""
    return policy.model_copy(update={"app": app, "apps": None})


def policies(peers: st.SearchStrategy[PeerSpec], ports: st.SearchStrategy[PolicyPort], most: int) -> Policies:
    of_apps = st.builds(
        PolicySpec,
        name=st.sampled_from("pqr"),
        app=st.sampled_from("xyz"),
        services=service_selectors,
        directions=both,
        mode=modes,
        rules=rules(["allow", "allow", "deny"], peers, ports),
    )
    of_cluster = st.builds(
        PolicySpec,
        name=st.sampled_from("pqr"),
        tier=st.sampled_from(["admin", "baseline"]),
        priority=st.integers(0, 2),
        services=service_selectors,
        apps=app_selectors,
        directions=both,
        mode=modes,
        rules=rules(["allow", "deny", "pass"], peers, ports),
    )
    return st.lists(
        st.one_of(of_apps, of_apps, of_cluster, st.builds(of_app, of_cluster, st.sampled_from("xyz"))),
        min_size=1,
        max_size=most,
    ).map(unlike)


sets = policies(st.one_of(services, blocks), ports, most=4)
wide_sets = policies(st.one_of(services, blocks, wide_blocks), st.one_of(ports, wide_ports), most=6)
