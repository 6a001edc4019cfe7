"""Policies in the words of Kubernetes: what they become, and what is said of mistakes."""

from __future__ import annotations

import pytest

from whit.base.errors import InputError
from whit.formats.policy.kubernetes import read_policies

HEAD = "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: p, namespace: shop}\n"
CLUSTER = (
    "apiVersion: policy.networking.k8s.io/v1alpha2\nkind: ClusterNetworkPolicy\nmetadata: {name: c}\n"
    "spec:\n  tier: Admin\n  priority: 7\n  subject: {namespaces: {}}\n"
)


def test_a_policy_of_a_namespace() -> None:
    text = HEAD + (
        "spec:\n  podSelector: {matchLabels: {pod: a}}\n  policyTypes: [Ingress, Egress]\n"
        "  ingress:\n  - from: [{namespaceSelector: {}, podSelector: {matchLabels: {pod: b}}}]\n"
        "    ports: [{port: 80}, {protocol: UDP, port: dns}, {port: 1000, endPort: 2000}]\n"
    )
    (policy,) = read_policies(text, "f.yaml")
    assert (policy.app, policy.name, policy.tier, policy.directions) == ("shop", "p", "default", ("ingress", "egress"))
    (rule,) = policy.rules
    assert [str(port) for port in rule.ports] == ["80/tcp", "dns/udp", "1000-2000/tcp"]
    assert str(rule.peers[0]) == "services pod=b of every app"


@pytest.mark.parametrize(
    ("spec", "directions"),
    [("{podSelector: {}}", ("ingress",)), ("{podSelector: {}, egress: []}", ("ingress", "egress"))],
)
def test_directions_that_are_not_named(spec: str, directions: tuple[str, ...]) -> None:
    (policy,) = read_policies(f"{HEAD}spec: {spec}\n", "f.yaml")
    assert policy.directions == directions


def test_a_policy_of_the_cluster() -> None:
    text = CLUSTER + (
        "  egress:\n  - {name: out, action: Accept, to: [{networks: [10.0.0.0/8, 192.0.2.0/24]}, {nodes: {}}],"
        " protocols: [{tcp: {destinationPort: {number: 443}}},"
        " {udp: {destinationPort: {range: {start: 1, end: 9}}}}]}\n"
        "  - {action: Pass, to: [{domainNames: ['*.example.com']}]}\n"
    )
    (policy,) = read_policies(text, "f.yaml")
    assert (policy.app, policy.tier, policy.priority, policy.directions) == ("", "admin", 7, ("egress",))
    assert [rule.action for rule in policy.rules] == ["allow", "pass"]
    assert [str(peer) for peer in policy.rules[0].peers] == ["10.0.0.0/8", "192.0.2.0/24", "host"]
    assert [str(port) for port in policy.rules[0].ports] == ["443/tcp", "1-9/udp"]


@pytest.mark.parametrize("version", ["v1alpha2", "v1beta1"])
def test_a_named_port_of_the_cluster_is_that_of_any_protocol(version: str) -> None:
    rule = "{action: Accept, from: [{namespaces: {}}], protocols: [{destinationNamedPort: dns}]}"
    (policy,) = read_policies(CLUSTER.replace("v1alpha2", version) + f"  ingress: [{rule}]\n", "f.yaml")
    assert [str(port) for port in policy.rules[0].ports] == ["dns/tcp", "dns/udp", "dns/sctp"]


def test_several_documents_and_lists() -> None:
    one = HEAD + "spec: {podSelector: {}}\n"
    other = one.replace("name: p", "name: q")
    listed = "kind: List\napiVersion: v1\nitems:\n" + "".join(
        "- " + text.replace("\n", "\n  ").rstrip() + "\n" for text in (one.replace("name: p", "name: r"),)
    )
    assert [policy.name for policy in read_policies(f"{one}---\n{other}---\n{listed}", "f.yaml")] == ["p", "q", "r"]


def test_an_annotation_makes_it_audit() -> None:
    text = HEAD.replace("namespace: shop", "namespace: shop, annotations: {whit/mode: audit}")
    (policy,) = read_policies(text + "spec: {podSelector: {}}\n", "f.yaml")
    assert policy.mode == "audit"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "there is no policy in it"),
        ("kind: Deployment\n", "'Deployment' is not known"),
        (HEAD, "has no spec"),
        (HEAD + "spec: {podSelectr: {}}\n", "f.yaml:4:8: spec.podSelectr: is not a known key"),
        (HEAD + "spec: {ingress: [{from: [{ipBlock: {cidr: 10.0.0.0/33}}]}]}\n", "10.0.0.0/33"),
        (HEAD + "spec: {ingress: [{from: [{ipBlock: {cidr: 10.0.0.0/8, except: [11.0.0.0/8]}}]}]}\n", "is not inside"),
        (HEAD + "spec: {ingress: [{ports: [{port: 70000}]}]}\n", "70000"),
        (HEAD + "spec: {ingress: [{ports: [{port: NOT_A_NAME}]}]}\n", "is no port"),
        (HEAD + "spec: {ingress: [{ports: [{port: 90, endPort: 80}]}]}\n", "not greater"),
        (HEAD + "spec: {ingress: [{from: [{}]}]}\n", "exactly one of"),
        (HEAD + "spec: {podSelector: {matchExpressions: [{key: a, operator: In}]}}\n", "needs values"),
        (HEAD.replace("/v1", "/v1beta1") + "spec: {}\n", "is not known"),
        (CLUSTER + "  ingress: [{action: Accept}]\n", "needs `from`"),
        (CLUSTER + "  ingress: [{action: Allow, from: [{namespaces: {}}]}]\n", "'Allow' is not known"),
        (CLUSTER + "  ingress: [{action: Deny, from: [{networks: [10.0.0.0/8]}]}]\n", "is not a known key"),
        (CLUSTER + "  egress: [{action: Deny, to: [{domainNames: [a.example]}]}]\n", "it can be allowed only"),
        (CLUSTER + "  egress: [{action: Accept, to: [{domainNames: ['a*.example']}]}]\n", "is no name of the DNS"),
    ],
)
def test_mistakes_are_named_with_their_place(text: str, said: str) -> None:
    with pytest.raises(InputError, match=r"f\.yaml") as caught:
        read_policies(text, "f.yaml")
    assert said in str(caught.value)


def test_all_mistakes_are_told_at_once() -> None:
    text = HEAD + "spec: {one: 1, two: 2, ingress: [{three: 3}]}\n"
    with pytest.raises(InputError) as caught:
        read_policies(text, "f.yaml")
    assert str(caught.value).count("is not a known key") == 3
