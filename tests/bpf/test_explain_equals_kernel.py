"""`explain`, from the dumped maps alone, says of a first packet what the programs in the kernel make of it.

Random meshes are compiled and written by the agent's own code; each packet then runs through the programs that it would
meet on its way (BPF_PROG_TEST_RUN, sockets of the node in truth), and the event that they report is compared.
"""

from __future__ import annotations

import secrets
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from random import Random

import pytest
from hypothesis import HealthCheck, Phase, given
from hypothesis import settings as hypothesis_settings
from support.kernel_answers import Case, Kernel, foretold, narrowed, node_namespace, told
from support.leftovers import leftovers_after
from support.packet_lab import (
    CLIENT,
    HOST_MACS,
    MACS,
    TCP_NUMBER,
    UDP_NUMBER,
    Lab,
    mac,
)
from support.policy_strategies import wide_sets
from support.random_mesh import BOOK, RandomNode, random_mesh
from support.random_questions import Asker

from whit.base.settings import Settings
from whit.datapath.abi import EndpointValue
from whit.kernel import cgroup
from whit.mesh.policy.explain import Dump, explain
from whit.model.policy import PolicySpec

pytestmark = [pytest.mark.root, pytest.mark.machine]

CASES_OF_A_MESH = 100
FIRST_PORT = 10_000


@pytest.fixture(scope="module")
def random_node(
    tmp_path_factory: pytest.TempPathFactory, lab_links: dict[str, int]
) -> Iterator[tuple[Kernel, RandomNode]]:
    """Its pools are those that an agent would set."""
    settings = Settings(id=f"t{secrets.token_hex(3)}", state_root=tmp_path_factory.mktemp("lab"))
    small = dict.fromkeys(("flows", "sockets", "fragments", "identities", "backends", "edges", "affinity"), 4096)
    place = settings.netns_dir / "node"
    with node_namespace(place) as cookie:
        lab = Lab(settings, lab_links, pool=BOOK.network, pool6=BOOK.mesh6, sizes=small, netns_cookie=cookie)
        try:
            lab.datapath.attach_host_sockets(cgroup.find().bpf_root())
            endpoint = EndpointValue(lab_links[CLIENT], 0, 0, mac(MACS[CLIENT]), mac(HOST_MACS[CLIENT]))
            yield Kernel(lab, place), RandomNode(settings, lab.datapath, endpoint)
        finally:
            lab.close()
    assert not leftovers_after(settings)
    shutil.rmtree(settings.run_dir, ignore_errors=True)


def differences(kernel: Kernel, node: RandomNode, random: Random, seen: Counter[str]) -> Iterator[tuple[object, ...]]:
    dump = Dump.of(node.datapath)
    asker = Asker(node, dump, random)
    for number in range(CASES_OF_A_MESH):
        case = Case(asker.question(), FIRST_PORT + number)
        decision = kernel.answer(case)
        found = explain(narrowed(dump, decision, case.question), case.question, str, str)
        expected, known = told(decision), foretold(found)
        seen[str(expected["reason"] or (expected["verdict"] if decision.event else "undecided"))] += 1
        if not expected.items() <= known.items():
            yield case, expected, known, found.hops
        if case.question.protocol not in (TCP_NUMBER, UDP_NUMBER):
            node.datapath.flows.clear()


def test_on_random_meshes(
    random_node: tuple[Kernel, RandomNode],
    sample: Callable[[int, int], int],
    record_number: Callable[[str, object], None],
) -> None:
    kernel, node = random_node
    seen: Counter[str] = Counter()
    count = sample(5_000, 100_000)

    @hypothesis_settings(
        max_examples=count // CASES_OF_A_MESH,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.generate],  # smaller policies would come with another mesh
    )
    @given(wide_sets)
    def check(policies: list[PolicySpec]) -> None:
        random = Random(repr(policies))
        node.become(random_mesh(random, policies), random)
        node.datapath.flows.clear()
        wrong = list(differences(kernel, node, random, seen))
        assert not wrong, wrong[0]

    check()
    record_number("explained as the kernel decided", dict(seen))
    kinds = ("allow", "audit", "undecided", "POLICY_EGRESS", "POLICY_INGRESS", "NO_BACKEND", "UNKNOWN_ENDPOINT")
    assert min(seen[kind] for kind in (*kinds, "SPOOFED_ADDRESS")) >= count // 500, seen
