"""Started by test_datapath.py and killed: installs two configurations in turn, attached to a link."""

from __future__ import annotations

import sys
from ipaddress import IPv4Network

from whit.base.settings import Settings
from whit.datapath.datapath import Datapath
from whit.datapath.install import DatapathConfig

settings, ifindex = Settings(id=sys.argv[1]), int(sys.argv[2])
print("ready", flush=True)
for mark in range(1000):
    config = DatapathConfig(pool=IPv4Network("10.99.0.0/24"), mark=mark, mark_mask=mark, sizes={"flows": 1000})
    with Datapath.install(settings, config) as datapath:
        datapath.attach_instance(ifindex, 1)
        datapath.attach_uplink(ifindex, "x")
