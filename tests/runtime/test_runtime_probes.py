from __future__ import annotations

import pytest

from whit.base.settings import Settings
from whit.runtime.probes import features
from whit.tools.oci_runtime import choose

pytestmark = [pytest.mark.machine, pytest.mark.timeout(60)]


async def test_what_this_machine_can_do(settings: Settings) -> None:
    """Says the same as what runs instances here."""
    found = {feature.name: feature for feature in await features(settings)}
    chosen = await choose(settings)
    assert found["OCI runtime"].state == "works"
    assert found[chosen.kind].state == "works"
    assert found["conmon"].state == "works"
    assert found["conmon"].detail[0].isdigit()
    assert found["system-call filter"].state == "works"
    assert all(feature.detail for feature in found.values() if feature.state == "missing" and not feature.hint)
