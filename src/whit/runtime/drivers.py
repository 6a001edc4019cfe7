"""Which driver serves which isolation on this machine.

Whoever has an instance's spec asks `Drivers.of`. Where a name is all that is known, every driver is asked to remove
what it has of it.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Iterable, Mapping
from dataclasses import replace
from typing import Any

from whit.base.errors import Unavailable
from whit.base.settings import Settings
from whit.model.operation import Operation
from whit.model.service import Isolation
from whit.model.status import LogLine
from whit.runtime.driver import Driver, Found, read_spec
from whit.runtime.layout import Layout
from whit.runtime.microvm.driver import MicrovmDriver
from whit.runtime.microvm.operations import GuestSource
from whit.runtime.oci import OciDriver
from whit.runtime.supervision import logs
from whit.tools import runsc


class Drivers:
    """The drivers of one agent."""

    def __init__(self, settings: Settings, drivers: Mapping[Isolation, Driver]) -> None:
        self.settings = settings
        self._drivers = drivers

    @classmethod
    async def open(cls, settings: Settings, guests: GuestSource) -> Drivers:
        """`guests` has made what microVMs boot. Raises Unavailable if not even containers work here."""
        containers = await OciDriver.open(settings)
        found: dict[Isolation, Driver] = {"container": containers}
        found["sandbox"] = OciDriver(settings, replace(containers.host, runtime=runsc.of(settings)))
        with contextlib.suppress(Unavailable):
            found["microvm"] = await MicrovmDriver.open(containers, guests)
        return cls(settings, found)

    def of(self, isolation: Isolation) -> Driver:
        """Raises Unavailable: the hint names what there is."""
        driver = self._drivers.get(isolation)
        if driver is None:
            there = " or ".join(self._drivers)
            raise Unavailable(f"isolation {isolation} cannot be had here", hint=f"use {there}; `whit doctor` says more")
        return driver

    @property
    def all(self) -> list[Driver]:
        return list(self._drivers.values())

    async def adopt(self) -> list[Found]:
        """Everything that runs or ended while no agent lived."""
        names: dict[Isolation, list[str]] = {}
        for path in sorted(self.settings.instances_dir.glob("*")):
            names.setdefault(self._isolation_of(path.name), []).append(path.name)
        return [one for isolation, some in names.items() for one in await self.of(isolation).adopt(some)]

    def _isolation_of(self, name: str) -> Isolation:
        """Of what cannot be read, only the removal matters, and that is every driver's."""
        spec = read_spec(self.layout(name))
        return spec.isolation if spec and spec.isolation in self._drivers else "container"

    def leftovers(self) -> list[str]:
        """Names of which there is a trace but no bundle: `plan_remove` takes the traces away."""
        return sorted(set[str]().union(*(driver.leftovers() for driver in self.all)))

    def plan_remove(self, name: str, *, keep_log: bool = False) -> list[Operation]:
        """Of an instance of which nobody knows how it was kept apart.

        What its bundle says goes first, if that can be read: its own runtime ends it, and its monitor follows at once.
        """
        own = self._drivers[self._isolation_of(name)]
        drivers = [own, *(driver for driver in self.all if driver is not own)]
        return [one for driver in drivers for one in driver.plan_remove(name, keep_log=keep_log)]

    def lines(self, names: Iterable[str], **options: Any) -> AsyncIterator[LogLine]:
        """What instances printed. Options as of logs.lines."""
        return logs.lines([self.layout(name) for name in names], **options)

    def layout(self, name: str) -> Layout:
        return Layout(self.settings, name)
