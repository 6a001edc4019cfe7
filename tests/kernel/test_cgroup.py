"""Control groups on whatever layout this machine has, and on the layouts of others as far as files show it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.cleaning_away import cleaned_away

from whit.base.errors import SystemCallError, TimedOut, Unavailable
from whit.base.settings import Settings
from whit.kernel import cgroup, cgroup_usage, mount
from whit.kernel.cgroup import CreateCgroup, Hierarchies, KeepCgroup
from whit.model.operation import carry_out, take_back

root = pytest.mark.root

PURE = """\
30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate,memory_recursiveprot
"""
V1 = """\
31 23 0:28 / /sys/fs/cgroup ro,nosuid - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct
35 31 0:32 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory
40 31 0:37 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,release_agent=/lib/agent,name=systemd
"""
HYBRID = V1 + "41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n"

BASE = Path("/sys/fs/cgroup")

FORKS = """
import os, sys, time
sys.stdin.readline()
for _ in range(8):
    os.fork()
time.sleep(60)
"""
EATS = """
import sys
sys.stdin.readline()
held = bytearray(20 << 20)
print("held", flush=True)
sys.stdin.readline()
more = b"x" * (200 << 20)
"""


def test_the_three_layouts() -> None:
    pure, old, hybrid = (cgroup.of_mounts(mount.parse(text)) for text in (PURE, V1, HYBRID))
    assert (pure.mode, pure.roots, pure.bpf_root()) == ("v2", (BASE,), BASE)
    assert (old.mode, old.unified) == ("v1", None)
    assert old.controllers == {
        "cpu": BASE / "cpu,cpuacct",
        "cpuacct": BASE / "cpu,cpuacct",
        "memory": BASE / "memory",
        "name=systemd": BASE / "systemd",
    }
    assert old.roots == (BASE / "cpu,cpuacct", BASE / "memory", BASE / "systemd")
    assert (hybrid.mode, hybrid.bpf_root()) == ("hybrid", BASE / "unified")
    with pytest.raises(Unavailable, match="mount -t cgroup2"):
        old.bpf_root()


@pytest.fixture(params=["all", "unified"])
def hierarchies(request: pytest.FixtureRequest) -> Hierarchies:
    """This machine's, and its unified hierarchy alone, as a machine with pure v2 has it."""
    found = cgroup.find()
    if request.param == "unified":
        return Hierarchies({}, found.bpf_root())
    return found


@pytest.fixture
def group(settings: Settings) -> Iterator[str]:
    name = f"{settings.cgroup}/shop-api-1"
    yield name
    cgroup.uproot(cgroup.find(), settings.cgroup)


Start = Callable[..., "subprocess.Popen[bytes]"]


@pytest.fixture
def start() -> Iterator[Start]:
    started: list[subprocess.Popen[bytes]] = []

    def run(*argv: str) -> subprocess.Popen[bytes]:
        started.append(subprocess.Popen(argv, stdin=subprocess.PIPE))
        return started[-1]

    yield run
    for process in started:
        process.kill()
        process.communicate()


def let_fork(process: subprocess.Popen[bytes], hierarchies: Hierarchies, group: str) -> None:
    """Returns in the midst of it. To move a process takes so long that one which does not wait has forked before."""
    assert process.stdin is not None
    process.stdin.write(b"\n")
    process.stdin.flush()
    until = time.monotonic() + 30
    while len(cgroup.pids(hierarchies, group)) < 4:
        assert time.monotonic() < until


@root
def test_create_and_remove_are_safe_twice(hierarchies: Hierarchies, group: str, settings: Settings) -> None:
    for _ in range(2):
        cgroup.create(hierarchies, group)
    assert len(hierarchies.directories(group)) == len(hierarchies.roots)
    cgroup.create(hierarchies, f"{group}/below")
    for _ in range(2):
        cgroup.remove(hierarchies, group)
    assert hierarchies.directories(group) == []
    assert len(hierarchies.directories(settings.cgroup)) == len(hierarchies.roots)
    for _ in range(2):
        cgroup.prune(hierarchies, group)
    assert hierarchies.directories(settings.cgroup) == []


@root
def test_pruning_leaves_groups_above_that_others_use(hierarchies: Hierarchies, group: str, settings: Settings) -> None:
    other = f"{settings.cgroup}/other"
    cgroup.create(hierarchies, group)
    cgroup.create(hierarchies, other)
    cgroup.remove(hierarchies, group)
    cgroup.prune(hierarchies, group)
    assert len(hierarchies.directories(other)) == len(hierarchies.roots)


@root
def test_a_kept_group_keeps_those_above_from_who_removes_what_is_empty(
    hierarchies: Hierarchies, settings: Settings
) -> None:
    """What is below it, a runtime can make without being disturbed."""
    with cleaned_away(hierarchies, f"/{settings.id}"):
        for number in range(20):
            kept = f"/{settings.id}/own{number}"
            cgroup.create(hierarchies, kept)
            for above in hierarchies.directories(kept):
                (above / "as-a-runtime-does").mkdir()
            cgroup.uproot(hierarchies, kept)
    assert hierarchies.directories(f"/{settings.id}") == []


@root
def test_what_is_lent_leaves_nothing(hierarchies: Hierarchies, settings: Settings) -> None:
    with cgroup.lent(hierarchies, f"{settings.cgroup}-probe-1") as lent:
        assert len(hierarchies.directories(lent)) == len(hierarchies.roots)
        assert cgroup.matching(hierarchies, f"{settings.cgroup}-*") == [lent]
    assert cgroup.matching(hierarchies, f"{settings.cgroup}*") == []


@root
def test_remove_of_a_busy_group_says_so(hierarchies: Hierarchies, group: str, start: Start) -> None:
    cgroup.create(hierarchies, group)
    cgroup.place(hierarchies, group, start("sleep", "60").pid)
    with pytest.raises(SystemCallError, match="EBUSY"):
        cgroup.remove(hierarchies, group, patience=0.05)


@root
def test_kill_reaches_processes_below_and_those_that_fork(hierarchies: Hierarchies, group: str, start: Start) -> None:
    # On pure v2 a group has processes or hands controllers down, not both.
    for name in ("below", "beside"):
        cgroup.create(hierarchies, f"{group}/{name}")
    forking = start(sys.executable, "-c", FORKS)
    cgroup.place(hierarchies, f"{group}/below", forking.pid)
    still = start("sleep", "60")
    cgroup.place(hierarchies, f"{group}/beside", still.pid)
    let_fork(forking, hierarchies, f"{group}/below")
    assert {forking.pid, still.pid} <= cgroup.pids(hierarchies, group)
    cgroup.kill(hierarchies, group)
    assert cgroup.pids(hierarchies, group) == set()
    assert (forking.wait(30), still.wait(30)) == (-signal.SIGKILL, -signal.SIGKILL)
    cgroup.kill(hierarchies, group)


@root
def test_kill_of_a_frozen_group(hierarchies: Hierarchies, group: str, start: Start) -> None:
    cgroup.create(hierarchies, f"{group}/below")
    process = start("sleep", "60")
    cgroup.place(hierarchies, f"{group}/below", process.pid)
    freezer = hierarchies.controllers.get("freezer")
    if freezer is not None:
        (freezer / f"{group}/below/freezer.state".lstrip("/")).write_text("FROZEN")
    else:
        (hierarchies.bpf_root() / f"{group}/cgroup.freeze".lstrip("/")).write_text("1")
    cgroup.kill(hierarchies, group)
    assert process.wait(30) == -signal.SIGKILL


@root
def test_kill_without_the_unified_hierarchy(group: str, start: Start) -> None:
    """As on pure v1: by freezing alone."""
    old = Hierarchies(cgroup.find().controllers, None)
    if not old.controllers:
        pytest.skip("this machine has pure v2")
    cgroup.create(old, group)
    process = start(sys.executable, "-c", FORKS)
    cgroup.place(old, group, process.pid)
    let_fork(process, old, group)
    cgroup.kill(old, group)
    assert process.wait(30) == -signal.SIGKILL


@root
def test_kill_gives_up_on_what_does_not_end_in_time(hierarchies: Hierarchies, group: str, start: Start) -> None:
    cgroup.create(hierarchies, group)
    cgroup.place(hierarchies, group, start("sleep", "60").pid)
    with pytest.raises(TimedOut, match="do not end"):
        cgroup.kill(hierarchies, group, patience=-1)


@root
def test_usage_and_memory_kills(group: str, start: Start) -> None:
    hierarchies = cgroup.find()
    if not hierarchies.has("memory"):
        pytest.skip("no memory controller on this machine")
    cgroup.create(hierarchies, group)
    assert cgroup_usage.memory_events(hierarchies, group).oom_kills == 0
    directory = hierarchies.directory("memory", group)
    assert directory is not None
    limit = "memory.limit_in_bytes" if "memory" in hierarchies.controllers else "memory.max"
    (directory / limit).write_text(str(64 << 20))
    swap = directory / "memory.swap.max"
    if swap.exists():
        swap.write_text("0")
    with subprocess.Popen([sys.executable, "-c", EATS], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        cgroup.place(hierarchies, group, process.pid)
        process.stdin.write(b"\n")
        process.stdin.flush()
        assert process.stdout.readline() == b"held\n"
        seen = cgroup_usage.usage(hierarchies, group)
        assert seen.memory is not None
        assert 20 << 20 <= seen.memory < 64 << 20
        assert seen.processes == 1
        assert seen.cpu is not None
        assert 0 < seen.cpu < 60
        process.stdin.write(b"\n")
        process.stdin.flush()
        assert process.wait(60) == -signal.SIGKILL
    assert cgroup_usage.memory_events(hierarchies, group).oom_kills == 1
    cgroup.remove(hierarchies, group)
    assert cgroup_usage.memory_events(hierarchies, group).oom_kills == 0
    assert cgroup_usage.usage(hierarchies, group) == cgroup_usage.Usage(None, None, None)


def test_usage_on_pure_v2_is_read_from_its_files(tmp_path: Path) -> None:
    """Files as a machine with pure v2 writes them."""
    directory = tmp_path / "whit/t/one"
    directory.mkdir(parents=True)
    (tmp_path / "cgroup.controllers").write_text("cpuset cpu io memory pids\n")
    for name, text in {
        "memory.current": "41943040\n",
        "memory.stat": "anon 20971520\nfile 20971520\ninactive_file 10485760\n",
        "memory.events": "low 0\nhigh 0\nmax 7\noom 3\noom_kill 2\noom_group_kill 0\n",
        "cpu.stat": "usage_usec 1500000\nuser_usec 1000000\nsystem_usec 500000\n",
        "pids.current": "12\n",
    }.items():
        (directory / name).write_text(text)
    hierarchies = Hierarchies({}, tmp_path)
    assert cgroup_usage.usage(hierarchies, "/whit/t/one") == cgroup_usage.Usage(30 << 20, 1.5, 12)
    assert cgroup_usage.memory_events(hierarchies, "/whit/t/one").oom_kills == 2
    assert hierarchies.has("memory")
    assert not hierarchies.has("hugetlb")


def test_controllers_are_handed_down_on_pure_v2(tmp_path: Path) -> None:
    """Directories instead of a cgroup file system: what is written where."""
    for directory in (tmp_path, tmp_path / "whit", tmp_path / "whit/t"):
        directory.mkdir(exist_ok=True)
        (directory / "cgroup.controllers").write_text("cpu memory cpuset hugetlb\n")
        (directory / "cgroup.subtree_control").write_text("memory\n")
    cgroup.create(Hierarchies({}, tmp_path), "/whit/t/one")
    written = {
        str(path.relative_to(tmp_path)): path.read_text() for path in sorted(tmp_path.rglob("cgroup.subtree_control"))
    }
    assert written == {
        "cgroup.subtree_control": "+cpu",
        "whit/cgroup.subtree_control": "+cpu",
        "whit/t/cgroup.subtree_control": "+cpu",
    }
    assert (tmp_path / "whit/t/one").is_dir()


def test_nothing_is_handed_down_beside_v1(tmp_path: Path) -> None:
    """Limits are v1's there, and crun works only once no controller is left on v2: one in use does not move."""
    for directory in (tmp_path / "unified", tmp_path / "unified/whit"):
        directory.mkdir(parents=True)
        (directory / "cgroup.controllers").write_text("cpu io memory hugetlb\n")
        (directory / "cgroup.subtree_control").write_text("")
    hybrid = Hierarchies({"pids": tmp_path / "pids"}, tmp_path / "unified")
    (tmp_path / "pids").mkdir()
    cgroup.create(hybrid, "/whit/t/one")
    assert len(hybrid.directories("/whit/t/one")) == 2
    assert [path.read_text() for path in tmp_path.rglob("cgroup.subtree_control")] == ["", ""]
    assert hybrid.handed_down == []


@root
async def test_the_operation_kills_and_removes(group: str, start: Start) -> None:
    operation = CreateCgroup(group)
    await take_back([operation])
    await carry_out([operation])
    process = start("sleep", "60")
    cgroup.place(cgroup.find(), operation.group, process.pid)
    await operation.undo()
    await operation.undo()
    assert process.wait(30) == -signal.SIGKILL
    assert os.getpid() not in cgroup.pids(cgroup.find(), "/whit")


@root
async def test_the_kept_group_of_an_agent_outlives_its_instances_and_failed_starts(
    hierarchies: Hierarchies, group: str, settings: Settings
) -> None:
    keep = KeepCgroup(settings.cgroup)
    instance = CreateCgroup(group)
    await carry_out([keep, instance])
    await take_back([keep])
    assert len(hierarchies.directories(group)) == len(hierarchies.roots)
    await take_back([keep, instance])
    assert hierarchies.directories(group) == []
    assert len(hierarchies.directories(settings.cgroup)) == len(hierarchies.roots)


@root
def test_hastening_moves_nothing() -> None:
    before = Path("/proc/self/cgroup").read_text()
    cgroup.hasten_moves(cgroup.find())
    assert Path("/proc/self/cgroup").read_text() == before


@pytest.mark.parametrize(
    ("own", "controllers", "unified", "written"),
    [
        ("0::/a", {}, "two", "two/a"),
        ("5:cpu,cpuacct:/a\n0::/b", {"cpu": "one", "cpuacct": "one"}, "two", "one/a"),
        ("7:pids:/none\n5:cpu:/a", {"cpu": "one", "pids": "three"}, None, "one/a"),
        ("9:name=other:/a\n0::/b", {"cpu": "one"}, None, ""),
    ],
)
def test_hastening_writes_to_the_own_group(
    tmp_path: Path, own: str, controllers: dict[str, str], unified: str | None, written: str
) -> None:
    """Directories instead of a cgroup file system."""
    for name in ("one/a", "one/b", "two/a", "two/b", "three"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "proc").write_text(own + "\n")
    hierarchies = Hierarchies(
        {name: tmp_path / where for name, where in controllers.items()}, tmp_path / unified if unified else None
    )
    cgroup.hasten_moves(hierarchies, tmp_path / "proc")
    found = {str(path.parent.relative_to(tmp_path)): path.read_text() for path in tmp_path.rglob("cgroup.procs")}
    assert found == ({written: "0"} if written else {})
