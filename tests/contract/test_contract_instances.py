"""What every instance is promised, whatever keeps it apart: how it ends, what it prints, what it may do."""

from __future__ import annotations

import asyncio
import os
import resource
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.instances import Machine
from support.slowness import SLOWNESS, patient

from whit.base.errors import Conflict, InputError, NotFound
from whit.kernel import cgroup, cgroup_usage
from whit.model.instance import ResolvedMount
from whit.model.operation import carry_out
from whit.model.service import LimitsSpec
from whit.runtime.bundle import capabilities
from whit.runtime.operations import NetworkFiles
from whit.runtime.supervision import logs
from whit.tools.runsc import Runsc

pytestmark = [pytest.mark.machine, pytest.mark.timeout(120)]


@pytest.mark.timeout(1800)
async def test_exit_codes(machine: Machine, sample: Callable[[int, int], int]) -> None:
    codes = range(256) if sample(6, 256) == 256 else (0, 1, 42, 125, 137, 255)
    for code in codes:
        record, _ = await machine.shell(f"exit {code}")
        assert record.code == code
        assert record.at is not None
        assert not record.oom_killed
        await machine.clean()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL, signal.SIGSEGV, signal.SIGABRT])
async def test_a_signal_is_128_and_its_number(machine: Machine, number: int) -> None:
    spec = await machine.start("sleep", "1000")
    pid = machine.driver.pid_of(spec.name)
    assert pid is not None
    # The first process of a pid namespace has no default actions for signals from inside, but from outside SIGKILL.
    if number == signal.SIGKILL:
        os.kill(pid, number)
        record = await machine.driver.exit_of(spec.name)
    else:
        record, _ = await machine.shell(f"sh -c 'kill -{int(number)} $$'; exit $?", index=2)
    assert record.code == 128 + number


async def test_stop_asks_first(machine: Machine) -> None:
    spec = await machine.start("sh", "-c", "trap 'echo bye; exit 5' TERM; echo ready; while :; do sleep 0.05; done")
    await _until(lambda: "ready" in machine.printed(spec))
    await carry_out(machine.driver.plan_stop(spec.name, "SIGTERM", 60))
    assert (await machine.driver.exit_of(spec.name)).code == 5
    assert machine.printed(spec) == "ready\nbye"


async def test_stop_kills_what_does_not_listen(machine: Machine) -> None:
    script = "trap '' TERM; echo ready; while :; do sleep 0.1; done"
    spec = await machine.start("sh", "-c", script)
    await _until(lambda: "ready" in machine.printed(spec))
    await carry_out(machine.driver.plan_stop(spec.name, "SIGTERM", 0.3))
    record = await machine.driver.exit_of(spec.name)
    assert (record.code, record.cause) == (137, "signal 9")
    await carry_out(machine.driver.plan_stop(spec.name, "SIGTERM", 0.3))


async def test_signals_without_a_handler_do_not_end_the_first_process(machine: Machine) -> None:
    spec = await machine.start("sh", "-c", "echo ready; exec sleep 1000")
    await _until(lambda: "ready" in machine.printed(spec))
    await carry_out(machine.driver.plan_stop(spec.name, "SIGTERM", 0.5))
    code = (await machine.driver.exit_of(spec.name)).code
    assert code == (143 if machine.differs("first-process") else 137)


async def test_every_byte_is_logged(machine: Machine) -> None:
    """A burst of a megabyte without a newline at its end."""
    _, text = await machine.shell("seq 1 160000; printf end")
    assert text == "\n".join([*map(str, range(1, 160001)), "end"])
    assert len(text) > 1_000_000


async def test_a_long_line_and_both_streams(machine: Machine) -> None:
    script = "head -c 300000 /dev/zero | tr '\\0' x; echo; echo oops >&2; printf last"
    spec = await machine.start("sh", "-c", script)
    await machine.driver.exit_of(spec.name)
    found = [line async for line in logs.lines([machine.layout(spec)])]
    assert [(line.stream, len(line.text)) for line in found if line.stream == "stdout"] == [
        ("stdout", 300000),
        ("stdout", 4),
    ]
    assert [line.text for line in found if line.stream == "stderr"] == ["oops"]


async def test_hosts_names_and_the_resolver(machine: Machine) -> None:
    spec = machine.spec("sh", "-c", "cat /etc/hosts /etc/resolv.conf /etc/hostname; hostname")
    machine.network(spec)
    files = NetworkFiles([("10.1.2.9", ["db", "db.test"])], nameservers=["10.1.0.1", "fd00::1"], search=["test.whit"])
    await carry_out(machine.driver.plan_start(spec, files))
    await machine.driver.exit_of(spec.name)
    assert machine.printed(spec).splitlines() == [
        "127.0.0.1\tlocalhost",
        "::1\tlocalhost ip6-localhost ip6-loopback",
        "10.1.2.3\ttiny",
        "10.1.2.9\tdb db.test",
        "nameserver 10.1.0.1",
        "nameserver fd00::1",
        "search test.whit",
        "options ndots:1",
        "tiny",
        "tiny",
    ]


async def test_new_hosts_are_seen_by_a_running_instance(machine: Machine) -> None:
    spec = await machine.start("sh", "-c", "until grep -q db /etc/hosts; do sleep 0.05; done; exit 3")
    await machine.write_network_files(spec, NetworkFiles([("10.1.2.9", ["db"])]))
    assert (await machine.driver.exit_of(spec.name)).code == 3


async def test_killed_for_memory(machine: Machine) -> None:
    script = "dd if=/dev/zero of=/dev/null bs=120000000 count=1"
    if machine.name == "qemu":  # whose kernel refuses at once what it could never give
        script = "head -c 120000000 /dev/zero | tail >/dev/null"
    record, _ = await machine.shell(f"{script}; exit 9", limits=LimitsSpec(memory=96 << 20))
    assert record.oom_killed
    assert record.cause == "the kernel killed it for memory"


async def test_a_limit_of_processes(machine: Machine) -> None:
    script = "for i in $(seq {}); do sleep 1000 & n=$((n+1)); done; echo started $n"
    _, text = await machine.shell(script.format(100), limits=LimitsSpec(pids=8))
    if not machine.differs("processes-limit"):
        assert "can't fork" in text
    assert "started" not in text
    _, text = await machine.shell(script.format(40), limits=LimitsSpec(pids=64), index=2)
    assert text == "started 40"


async def test_threads(machine: Machine) -> None:
    """Of the machine's C library, which tries the newest call for them first."""
    [loader] = Path("/usr").glob("lib*/ld-linux-*.so.*")
    script = "import threading; t = threading.Thread(target=print, args=('in a thread',)); t.start(); t.join()"
    mounts = (ResolvedMount(kind="bind", source=Path("/usr"), target="/usr", read_only=True),)
    _, text = await machine.run(str(loader.resolve()), "/usr/bin/python3", "-ISc", script, mounts=mounts)
    assert text == "in a thread"


async def test_a_limit_of_cpu_time(machine: Machine) -> None:
    share = 0.1 if SLOWNESS == 1 else 0.5  # a sandbox begins within its limits, which takes some seconds there
    spec = await machine.start("sh", "-c", "while :; do :; done", limits=LimitsSpec(cpus=share))
    hierarchies, group = cgroup.find(), machine.layout(spec).cgroup
    before, began = cgroup_usage.usage(hierarchies, group).cpu, time.monotonic()
    await asyncio.sleep(patient(0.5))
    after, took = cgroup_usage.usage(hierarchies, group).cpu, time.monotonic() - began
    assert before is not None
    assert after is not None
    assert 0 < after - before < (share + 0.3) * took


async def test_what_a_process_is_allowed(machine: Machine) -> None:
    _, text = await machine.shell("cat /proc/self/status; ulimit -Hn")
    status = dict(line.split(":\t", 1) for line in text.splitlines() if ":\t" in line)
    wanted = sum(1 << capabilities.KNOWN.index(name) for name in capabilities.DEFAULT)
    assert int(status["CapEff"], 16) == int(status["CapPrm"], 16) == int(status["CapBnd"], 16) == wanted
    assert int(status["CapInh"], 16) == int(status.get("CapAmb", "0"), 16) == 0
    if machine.name != "runsc":  # where it does not stand in the status, and no file gives powers anyway
        assert status["NoNewPrivs"] == "1"
    assert status["Seccomp"] == ("0" if machine.differs("own-filter") else "2")
    assert int(text.splitlines()[-1]) == min(1 << 20, resource.getrlimit(resource.RLIMIT_NOFILE)[1])


async def test_forbidden_calls_fail(machine: Machine) -> None:
    """Also for root, and also where a capability would be enough without the filter."""
    script = "unshare -m true 2>&1; mount -t tmpfs x /tmp 2>&1; mknod /tmp/d b 8 0 2>&1; chown 1:1 /tmp && echo chown"
    _, text = await machine.shell(script)
    refused = [line for line in text.splitlines() if "not permitted" in line or "ermission denied" in line]
    assert len(refused) == (2 if machine.differs("device-nodes") else 3), text
    assert text.splitlines()[-1] == "chown"


async def test_devices_of_the_machine_are_out_of_reach(machine: Machine) -> None:
    """Every block device that the machine has, by number."""
    numbers = " ".join(path.read_text().strip() for path in Path("/sys/block").glob("*/dev"))
    script = "for n in $0; do mknod /tmp/d b ${n%:*} ${n#*:}; (: </tmp/d) && echo opened $n; rm -f /tmp/d; done"
    _, text = await machine.run("sh", "-c", script, numbers)
    assert "opened" not in text
    assert text.count("/tmp/d") >= len(numbers.split()) > 0


async def test_no_capabilities_at_all(machine: Machine) -> None:
    _, text = await machine.shell("chown 1:1 /tmp 2>&1; grep CapEff /proc/self/status", capabilities=())
    assert "not permitted" in text
    assert text.endswith("CapEff:\t0000000000000000")


async def test_hidden_and_read_only_places(machine: Machine) -> None:
    script = (
        "for f in timer_list keys; do cat /proc/$f 2>/dev/null | wc -c; done; ls /sys/firmware 2>/dev/null | wc -l; "
        "for f in /proc/sys/kernel/hostname /proc/sysrq-trigger /sys/kernel/uevent_seqnum /sys/fs/cgroup/x; "
        "do (echo 1 >$f) 2>/dev/null && echo wrote $f; done; ls /dev | sort | tr '\\n' ' '"
    )
    _, text = await machine.shell(script)
    devices = "core fd full mqueue null ptmx pts random shm stderr stdin stdout tty urandom zero"
    if machine.name == "runsc":  # net/tun and fuse are gVisor's own, and do nothing without capabilities
        devices += " net fuse"
    # A guest's own kernel says what it is told to do.
    lines = [line for line in text.splitlines() if not line.startswith("[")]
    if not machine.differs("hidden-places"):
        assert lines[:3] == ["0", "0", "0"]
        assert "wrote" not in text
    assert "wrote /sys" not in text
    assert set(lines[-1].split()) <= set(devices.split()), lines


async def test_a_read_only_root(machine: Machine) -> None:
    script = "(touch /x) 2>/dev/null || echo root; touch /dev/shm/x && touch /scratch/x && echo memory"
    mounts = (ResolvedMount(kind="tmpfs", target="/scratch", size=1 << 20),)
    _, text = await machine.shell(script, read_only=True, mounts=mounts)
    assert text == "root\nmemory"


async def test_a_user_by_name(machine: Machine) -> None:
    _, text = await machine.shell("id; echo $HOME; grep CapEff /proc/self/status", user="app")
    assert text.splitlines() == [
        "uid=1000(app) gid=1000(app) groups=1000(app),2000(extra),2001(more)",
        "/home/app",
        "CapEff:\t0000000000000000",
    ]


async def test_a_user_keeps_what_was_added(machine: Machine) -> None:
    chosen = capabilities.effective_set(["SYS_NICE"], [])
    _, text = await machine.shell("grep CapEff /proc/self/status", user="1234:app", capabilities=chosen)
    added = 1 << capabilities.KNOWN.index("CAP_SYS_NICE")
    assert int(text.split()[1], 16) == (0 if machine.differs("ambient-capabilities") else added)


async def test_an_unprivileged_user_may_listen_on_port_80(machine: Machine) -> None:
    _, text = await machine.shell("timeout 1 nc -l -p 80; echo $?", user="app")
    assert "143" in text.splitlines()


async def test_mounts(machine: Machine, tmp_path: Path) -> None:
    (tmp_path / "given").mkdir()
    (tmp_path / "given/file").write_text("hello")
    mounts = (
        ResolvedMount(kind="bind", source=tmp_path / "given", target="/given", read_only=True),
        ResolvedMount(kind="bind", source=tmp_path / "given", target="/writable"),
        ResolvedMount(kind="tmpfs", target="/scratch", size=1 << 20, mode=0o700),
    )
    script = (
        "cat /given/file; echo; (echo x >/given/file) 2>/dev/null || echo read-only; echo new >/writable/other; "
        "stat -c %a /scratch; (head -c 4000000 /dev/zero >/scratch/big) 2>/dev/null || echo full"
    )
    _, text = await machine.shell(script, mounts=mounts)
    assert text.splitlines() == ["hello", "read-only", "700", "full"]
    assert (tmp_path / "given/other").read_text() == "new\n"


async def test_an_empty_volume_gets_what_the_image_has(machine: Machine) -> None:
    volume = machine.driver.settings.volumes_dir / "test-data"
    volume.mkdir(parents=True)
    mounts = (ResolvedMount(kind="bind", source=volume, target="/data"),)
    _, text = await machine.shell("cat /data/seed; echo mine >/data/seed", mounts=mounts)
    assert text == "from the image"
    assert volume.stat().st_uid == 1000
    _, text = await machine.shell("cat /data/seed", mounts=mounts, index=2)
    assert text == "mine"


async def test_a_volume_that_two_instances_share(machine: Machine) -> None:
    """While both run, each sees what the other writes."""
    volume = machine.driver.settings.volumes_dir / "test-shared"
    volume.mkdir(parents=True)
    mounts = (ResolvedMount(kind="bind", source=volume, target="/shared"),)
    wait = "until test -s /shared/{0}; do sleep 0.05; done; cat /shared/{0}"
    asks = f"echo question >/shared/asked; {wait.format('answered')}"
    answers = f"{wait.format('asked')}; echo answer >/shared/answered"
    specs = [await machine.start("sh", "-c", asks, mounts=mounts)]
    specs.append(await machine.start("sh", "-c", answers, mounts=mounts, index=2))
    async with asyncio.timeout(patient(100)):
        assert [(await machine.driver.exit_of(spec.name)).code for spec in specs] == [0, 0]
    assert [machine.printed(spec) for spec in specs] == ["answer", "question"]


async def test_the_writable_layer_lives_as_long_as_the_instance(machine: Machine) -> None:
    script = "test -e /kept && echo again || echo first; touch /kept"
    spec = await machine.start("sh", "-c", script)
    await machine.driver.exit_of(spec.name)
    await carry_out(machine.driver.plan_restart(spec, NetworkFiles(), restarts=1))
    await machine.driver.exit_of(spec.name)
    assert machine.printed(spec) == "first\nagain"
    await machine.remove(spec.name)
    await carry_out(machine.driver.plan_start(spec, NetworkFiles()))
    await machine.driver.exit_of(spec.name)
    assert machine.printed(spec) == "first"


async def test_what_is_in_tmp_outlives_a_restart(machine: Machine) -> None:
    spec = await machine.start("sh", "-c", "test -e /tmp/kept && echo again; touch /tmp/kept")
    await machine.driver.exit_of(spec.name)
    await carry_out(machine.driver.plan_restart(spec, NetworkFiles(), restarts=1))
    await machine.driver.exit_of(spec.name)
    assert machine.printed(spec) == ("" if machine.differs("empty-tmp") else "again")


async def test_mistakes_name_the_service(machine: Machine) -> None:
    mistakes: list[tuple[str, dict[str, Any]]] = [
        ("services.web.command", {"args": ("no-such-program",)}),
        ("services.web.user", {"user": "nosuch"}),
        ("services.web.mounts", {"mounts": (ResolvedMount(kind="bind", source=Path("/no/such"), target="/x"),)}),
    ]
    for key, changes in mistakes:
        if key == "services.web.command" and machine.differs("command-at-start"):
            record, text = await machine.run(*changes["args"])
            assert (record.code, "no-such-program" in text) == (127, True)
            await machine.clean()
            continue
        spec = machine.spec(**changes)
        machine.network(spec)
        with pytest.raises(InputError) as caught:
            await carry_out(machine.driver.plan_start(spec, NetworkFiles()))
        assert caught.value.place.key == key
        assert not machine.layout(spec).bundle.exists()
        await machine.clean()


async def test_the_driver_knows_whose_kernel_it_is(machine: Machine) -> None:
    _, told = await machine.run("cat", "/proc/version")
    assert told.startswith("Linux version ")
    assert machine.driver.has_own_kernel == (told.strip() != Path("/proc/version").read_text().strip())
    assert (machine.driver.snapshots is None) == (machine.name != "qemu")


async def test_the_first_start_finds_out_how_the_runtime_is_called(machine: Machine) -> None:
    """gVisor may have to be called otherwise on this kernel; when the first start is planned nobody knows yet."""
    runtime = machine.driver.host.runtime
    if machine.name != "runsc" or not isinstance(runtime, Runsc):
        pytest.skip("only gVisor is tried before it is used")
    runtime.memory.unlink()
    record, _ = await machine.run("true")
    assert record.code == 0
    assert runtime.finding() is not None


async def test_a_name_is_taken_once(machine: Machine) -> None:
    spec = await machine.start()
    with pytest.raises(Conflict):
        await carry_out(machine.driver.plan_start(spec, NetworkFiles()))
    assert machine.driver.pid_of(spec.name) is not None


async def test_pausing(machine: Machine) -> None:
    spec = await machine.start()
    runtime = machine.driver.host.runtime
    await runtime.pause(spec.name)
    assert (await runtime.state(spec.name)).status == "paused"
    await carry_out(machine.driver.plan_stop(spec.name, "SIGKILL", 5))
    assert (await machine.driver.exit_of(spec.name)).code == 137
    with pytest.raises(NotFound):
        await runtime.state("no-such")


async def _until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(patient(60)):
        while not condition():
            await asyncio.sleep(0.02)
