"""The conformance cases of ClusterNetworkPolicy over real instances, both families and protocols: who reaches whom, and
what the mesh tells of it."""

from __future__ import annotations

import pytest
from conformance.checking import play_case
from conformance.cluster_policies import CLUSTER_CASES, SCTP_CASES
from conformance.network_policies import Case
from support.cluster import Cluster

pytestmark = [pytest.mark.machine, pytest.mark.timeout(120)]


@pytest.mark.parametrize("case", CLUSTER_CASES, ids=lambda case: case.name)
def test_cluster_policy(cluster: Cluster, case: Case) -> None:
    play_case(cluster, case)


@pytest.mark.parametrize("name", SCTP_CASES)
def test_cluster_policy_sctp(name: str) -> None:
    pytest.skip("this kernel has no SCTP")
