"""What this machine can do, and why not: every probe of every hand, each by trying."""

from __future__ import annotations

import asyncio

from whit.base.settings import Settings
from whit.control.observing import otlp
from whit.datapath import probes as datapath_probes
from whit.image.forms import probes as form_probes
from whit.kernel import probes as kernel_probes
from whit.model.feature import Feature
from whit.runtime import probes as runtime_probes
from whit.runtime.microvm import probes as microvm_probes
from whit.tools import nft


def examine(settings: Settings) -> list[Feature]:
    """The same without an event loop, for a command line that needs no agent."""
    return asyncio.run(features(settings))


async def features(settings: Settings) -> list[Feature]:
    """Those that are required and missing come first."""
    found = [
        *await asyncio.to_thread(kernel_probes.features, settings),
        *await asyncio.to_thread(datapath_probes.probe_all),
        *await nft.features(),
        *await runtime_probes.features(settings),
        *otlp.features(settings),
        *await microvm_probes.features(),
        *form_probes.features(),
    ]
    rank = {"missing": 0, "degraded": 1, "works": 2}
    return sorted(found, key=lambda feature: (not feature.required, rank[feature.state]))
