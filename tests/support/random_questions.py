"""Questions about a RandomNode: some about anybody, some about what an entry of its policy speaks of, at its edges."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

from support.packet_lab import ICMP_NUMBER, ICMPV6_NUMBER, SCTP_NUMBER, TCP_NUMBER, UDP_NUMBER
from support.random_mesh import NOBODY, OF_NODE, OUTSIDERS, RandomNode
from whit.datapath.abi import POLICY_PREFIX_ANY_PORT, POLICY_PREFIX_EXACT, Direction, FrontendKey, PolicyKey
from whit.mesh.policy.explain import Dump, Question, identity_of
from whit.mesh.services import ANYWHERE

LOOPBACK = ("127.0.0.1", "::1")
PORTS = (0, 1, 53, 79, 80, 81, 82, 8080, 8081, 9000, 65535)
MESSAGES = {
    ICMP_NUMBER: (0x0800, 0x0800, 0x0801, 0x0000, 0x0D00, 0x0E01),
    ICMPV6_NUMBER: (0x8000, 0x8000, 0x8001, 0x8100, 0x9000),
}
"""Types and codes that are neither errors nor neighbour discovery."""


class Asker:
    def __init__(self, node: RandomNode, dump: Dump, random: Random) -> None:
        self.node, self.dump, self.random = node, dump, random
        self._keys: dict[int, list[PolicyKey]] = {}
        """By protocol: else those of the rarer ones would seldom be asked about."""
        for key in dump.policies:
            if key.prefix_length >= POLICY_PREFIX_ANY_PORT:
                self._keys.setdefault(key.protocol, []).append(key)
        everybody = (*node.instances(), *OF_NODE, *OUTSIDERS[0], *OUTSIDERS[1])
        self._by_identity: dict[tuple[int, bool], list[str]] = {}
        for address in everybody:
            self._by_identity.setdefault((identity_of(dump, address), ":" in address), []).append(address)

    def question(self) -> Question:
        if self._keys and self._often(0.5):
            asked = self._about_an_entry(self.random.choice(self._keys[self.random.choice([*self._keys])]))
            if asked:
                return asked
        if self.dump.frontends and self._often(0.2):
            return self._about_a_frontend(self.random.choice([*self.dump.frontends]))
        return self._about_anybody()

    def _often(self, share: float) -> bool:
        return self.random.random() < share

    def _about_anybody(self) -> Question:
        """Something is decided, mostly: an instance or a published port is at one end."""
        ipv6 = self._often(0.4)
        protocol = self.random.choice((TCP_NUMBER,) * 5 + (UDP_NUMBER,) * 3 + (ICMP_NUMBER, SCTP_NUMBER))
        if protocol == ICMP_NUMBER and ipv6:
            protocol = ICMPV6_NUMBER
        return Question(*self._ends(ipv6), self._port(protocol), protocol)

    def _about_a_frontend(self, key: FrontendKey) -> Question:
        ipv6 = ":" in str(key.address)
        own = [address for address in OF_NODE if (":" in address) == ipv6]
        instances = [address for address in self.node.instances() if (":" in address) == ipv6]
        address = self.random.choice(own) if str(key.address) in ANYWHERE else str(key.address)
        protocol = key.protocol or self.random.choice((TCP_NUMBER, UDP_NUMBER))
        source = self._one_of(OUTSIDERS[ipv6], own, instances or own)
        return Question(source, address, key.port or self._port(protocol), protocol)

    def _port(self, protocol: int) -> int:
        if protocol in MESSAGES:
            return self.random.choice(MESSAGES[protocol])
        return self.random.choice(PORTS) if self._often(0.9) else self.random.randrange(65536)

    def _ends(self, ipv6: bool) -> tuple[str, str]:
        app = self.random.choice(("x/", "y/", "z/", "", "", ""))  # often of the same app, which is more open
        instances = [address for address in self.node.instances(app) if (":" in address) == ipv6]
        services = self.node.services(app, ipv6)
        own = [address for address in OF_NODE if (":" in address) == ipv6]
        anywhere = (*OUTSIDERS[ipv6], *NOBODY[ipv6])
        if instances and self._often(0.7):
            others = self._one_of(instances, instances, instances, services, services, services, own, anywhere)
            return self.random.choice(instances), others
        if self._often(0.4):
            return self.random.choice(own), self._one_of(instances or own, services, (*own, LOOPBACK[ipv6]))
        return self.random.choice(anywhere), self._one_of(instances or services, own)

    def _one_of(self, *pools: Sequence[str]) -> str:
        return self.random.choice(self.random.choice(pools))

    def _about_an_entry(self, key: PolicyKey) -> Question | None:
        """None if nobody is there whom it concerns."""
        ipv6 = key.protocol == ICMPV6_NUMBER or (key.protocol != ICMP_NUMBER and self._often(0.4))
        subjects = self._by_identity.get((key.subject, ipv6))
        peers = self._by_identity.get((key.peer, ipv6)) if key.peer else self.node.services("", ipv6)
        if not subjects or not peers:
            return None
        subject, peer = self.random.choice(subjects), self.random.choice(peers)
        ends = (subject, peer) if key.direction == Direction.EGRESS else (peer, subject)
        return Question(*ends, self._port_near(key), key.protocol)

    def _port_near(self, key: PolicyKey) -> int:
        last = key.port + (1 << POLICY_PREFIX_EXACT - key.prefix_length) - 1
        near = [key.port - 1, key.port, self.random.randint(key.port, last), last, last + 1]
        fitting = [port for port in near if 0 <= port <= 65535]
        if key.protocol in MESSAGES:
            fitting = [port for port in fitting if port in MESSAGES[key.protocol]]
        return self.random.choice(fitting) if fitting else self._port(key.protocol)
