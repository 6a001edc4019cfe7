"""The agent's process: how it ends."""

from __future__ import annotations

import signal

import pytest
from support.whit import Whit

from whit.base.settings import Settings

pytestmark = [pytest.mark.machine, pytest.mark.timeout(90)]


def test_told_to_end_it_lets_go_of_what_it_holds(settings: Settings) -> None:
    whit = Whit(settings)
    whit.start_agent()
    try:
        (agent,) = whit.agents
        agent.send_signal(signal.SIGTERM)
        assert agent.wait(60) == 0
        assert not settings.socket.exists()
    finally:
        whit.clean()
