"""How an instance is put to sleep and got up again: frozen as it is, or ended and maybe made ready to start.

When that is done, and what is done about packets meanwhile, is in warm.py.
"""

from __future__ import annotations

import asyncio
import logging
import time
from datetime import UTC, datetime

from whit.base.errors import Unavailable, WhitError
from whit.control.instances import Instances, Record
from whit.model.operation import carry_out
from whit.model.service import Idle

log = logging.getLogger(__name__)


async def freeze(instances: Instances, record: Record) -> None:
    """Let it stand still, its health unasked. Raises WhitError if that cannot be done; it runs then."""
    if record.checker is not None:
        record.checker.cancel()
        await asyncio.wait([record.checker])
        record.checker = None
    try:
        await instances.driver(record.spec).pause(record.spec.name)
    except WhitError:
        instances.check(record, adopted=True)
        raise
    if record.is_reachable:
        record.slept = time.monotonic()
        record.update(state="frozen")


def thaw(instances: Instances, record: Record) -> None:
    """Let it run if it stands still."""
    if record.status.state != "frozen":
        return
    instances.driver(record.spec).resume(record.spec.name)
    record.update(state="running")
    instances.check(record, adopted=True)
    instances.changed()


async def lay_down(instances: Instances, record: Record, level: Idle) -> None:
    """End its process; its network, its files and its place in its service stay. An agent that comes later sees that
    this was on purpose. Raises WhitError, also if its process does not end: then it runs on."""
    spec, driver = record.spec, instances.driver(record.spec)
    # Now, and not while somebody waits for it; and what cannot be had is known before it has ended.
    made_ready = instances.preparing(spec, record.status.restarts) if level == "created" else []
    instances.drivers.layout(spec.name).asleep.write_text(level)
    instances.unwatch(record)
    driver.resume(spec.name)
    try:
        await carry_out(driver.plan_stop(spec.name, spec.stop_signal, spec.stop_grace_period))
    except WhitError:
        instances.drivers.layout(spec.name).asleep.unlink(missing_ok=True)
        if record.status.state == "running":
            instances.watch(record, adopted=True)
        raise
    if level == "created":
        record.update(state="stopped", pid=None, message="")
        await carry_out(made_ready)
        record.slept = time.monotonic()
        record.update(state="created", pid=driver.pid_of(spec.name))
    else:
        await _lay_out(instances, record)
        record.update(state="stopped", pid=None, message="")


async def _lay_out(instances: Instances, record: Record) -> None:
    """Now, and not while somebody waits for it. If that cannot be done, its start will tell."""
    names = instances.networks.files(record.spec)
    try:
        await carry_out(instances.laying_out(record.spec))
        record.laid_out = names
    except WhitError as error:
        log.warning("%s will take longer to wake: %s", record.spec.name, error)


async def store(instances: Instances, record: Record) -> None:
    """Write its machine to a file, and give its memory back. Raises WhitError if that cannot be done; it runs then."""
    spec, driver = record.spec, instances.driver(record.spec)
    if driver.snapshots is None:
        raise Unavailable(f"{spec.name} is no virtual machine", hint="use another `idle`")
    asleep = instances.drivers.layout(spec.name).asleep
    asleep.write_text("snapshot")
    instances.unwatch(record)
    driver.resume(spec.name)
    try:
        await carry_out(driver.snapshots.plan_save(spec.name))
    except WhitError:
        asleep.unlink(missing_ok=True)
        instances.watch(record, adopted=True)
        record.update(state="running")
        raise
    record.update(state="snapshot", pid=None, message="")


async def get_up(instances: Instances, record: Record) -> None:
    """Have its process run; whether somebody listens is not looked at. Raises WhitError."""
    spec = record.spec
    if not await _woken(instances, record):
        await carry_out(instances.restarting(spec, record.status.restarts))
    instances.drivers.layout(spec.name).asleep.unlink(missing_ok=True)
    record.started = time.monotonic()


async def _woken(instances: Instances, record: Record) -> bool:
    """Whether it could go on from where it lay."""
    match record.status.state:
        case "snapshot":
            return await _restored(instances, record)
        case "created":
            return await _begun(instances, record)
        case _:
            return await _finished(instances, record)


async def _restored(instances: Instances, record: Record) -> bool:
    """The file may be damaged, or of another QEMU."""
    spec, snapshots = record.spec, instances.driver(record.spec).snapshots
    files = instances.networks.files(spec)
    record.update(message="")
    try:
        assert snapshots is not None
        steps = snapshots.plan_restore(spec, files, restarts=record.status.restarts)
        await carry_out([*instances.networks.plan_reconnect(spec), *steps])
    except (WhitError, OSError) as error:
        log.warning("%s cannot be restored and is started anew: %s", spec.name, error)
        record.update(message=f"was started anew: {error}")
        return False
    return True


async def _finished(instances: Instances, record: Record) -> bool:
    """The start of what is laid out. There may be other names by now, and somebody may have taken a part of it away."""
    names, record.laid_out = record.laid_out, None
    if names is None or names != instances.networks.files(record.spec):
        return False
    try:
        await carry_out(instances.restarting(record.spec, record.status.restarts, laid_out=True))
    except WhitError as error:
        log.warning("%s was not laid out well, and is started anew: %s", record.spec.name, error)
        return False
    return True


async def _begun(instances: Instances, record: Record) -> bool:
    """Somebody may have ended what was prepared."""
    try:
        await carry_out(instances.driver(record.spec).plan_begin(record.spec))
    except WhitError as error:
        log.warning("%s was not ready to start: %s", record.spec.name, error)
        return False
    return True


def stand(instances: Instances, record: Record) -> None:
    """It runs. Its health is what it was until a check says otherwise: its service has waited for it."""
    record.ended = False
    record.update(
        state="running", started_at=datetime.now(UTC), pid=instances.driver(record.spec).pid_of(record.spec.name)
    )
    instances.watch(record, adopted=True)
    instances.changed()
