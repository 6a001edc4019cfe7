"""What this machine can do to run containers and sandboxes, found by running them."""

from __future__ import annotations

import json

from whit.base.errors import CommandError, TimedOut, Unavailable
from whit.base.settings import Settings
from whit.kernel import cgroup, temporary
from whit.kernel.thread import in_thread
from whit.model.feature import Feature
from whit.runtime.bundle import capabilities, seccomp
from whit.tools import oci_runtime, process, runsc, runsc_program
from whit.tools.oci_runtime import Runtime

_CGROUPS = "/sys/fs/cgroup"


async def features(settings: Settings) -> list[Feature]:
    """crun, runc, conmon and the system-call filter."""
    found = [await _runtime(kind, settings) for kind in oci_runtime.PREFERRED]
    return [*found, await _any_runtime(settings), await _conmon(), await _seccomp(settings), *await _gvisor(settings)]


async def _runtime(kind: oci_runtime.Kind, settings: Settings) -> Feature:
    path = oci_runtime.find(kind)
    if path is None:
        return Feature(name=kind, state="missing", hint=f"apt install {kind}")
    runtime = Runtime(kind, path, await oci_runtime.version(path), settings.run_dir / "runtime")
    refusal = await oci_runtime.refusal_of(runtime, settings)
    if refusal is None:
        return Feature(name=kind, state="works", detail=runtime.version)
    hint = moving(await in_thread(cgroup.find)) if "hybrid" in refusal else ""
    return Feature(name=kind, state="missing", detail=refusal, hint=hint)


def moving(hierarchies: cgroup.Hierarchies) -> str:
    """How crun, which takes a hybrid layout only if all controllers are on v1, can be had besides runc."""
    first = "runc works with hybrid cgroups; crun does on pure v2"
    left = hierarchies.left_on_v2
    if not left:
        return first
    # Whit hands nothing down there, but other software may have: the kernel moves no controller that is in use.
    taken = " ".join(f"-{name}" for name in hierarchies.handed_down)
    withheld = [f"echo {taken} >{hierarchies.unified}/cgroup.subtree_control"] if taken else []
    mounts = [f"mkdir -p {_CGROUPS}/{name} && mount -t cgroup -o {name} {name} {_CGROUPS}/{name}" for name in left]
    forgotten = "whit doctor --clean (it forgets that runc was chosen)"
    return f"{first}, or with {', '.join(left)} on v1: {'; '.join([*withheld, *mounts, forgotten])}"


async def _gvisor(settings: Settings) -> list[Feature]:
    """As `isolation: sandbox` finds it. Nothing is fetched here: that happens when an app first asks for it."""
    runtime = runsc.of(settings)
    name = "gVisor (isolation: sandbox)"
    if runtime.finding() is None and not runsc_program.installed(settings):
        hint = "it is fetched when an app first asks for isolation: sandbox; apt install runsc, or WHIT_RUNSC, else"
        return [Feature(name=name, state="missing", detail="not fetched yet", hint=hint)]
    try:
        for operation in runtime.preparation():
            await operation.do()
    except Unavailable as error:
        return [Feature(name=name, state="missing", detail=error.message, hint=error.hint)]
    found = runtime.finding()
    assert found is not None
    features = [Feature(name=name, state="works", detail=f"{runtime.label}, systrap")]
    if found.mistakes_namespaces:
        detail = "this runsc takes every network namespace for the machine's own; worked around at each start"
        features.append(Feature(name="gVisor's network", state="degraded", detail=detail, hint=runsc.NEWER))
    return features


async def _any_runtime(settings: Settings) -> Feature:
    try:
        runtime = await oci_runtime.choose(settings)
    except Unavailable as error:
        return Feature(
            name="OCI runtime", state="missing", detail=error.message, hint="install crun or runc", required=True
        )
    return Feature(name="OCI runtime", state="works", detail=f"{runtime.kind} {runtime.version}", required=True)


async def _conmon() -> Feature:
    try:
        version = (await process.run(["conmon", "--version"], timeout=10)).text.split()[2]
    except (Unavailable, CommandError, TimedOut, IndexError) as error:
        return Feature(name="conmon", state="missing", detail=str(error), hint="apt install conmon", required=True)
    return Feature(name="conmon", state="works", detail=version, required=True)


async def _seccomp(settings: Settings) -> Feature:
    """Runs `cat /proc/self/status` under the profile and reads whether the kernel filters."""
    name = "system-call filter"
    try:
        runtime = await oci_runtime.choose(settings)
        status = await _status_inside(runtime, settings)
    except (Unavailable, CommandError, TimedOut) as error:
        return Feature(name=name, state="missing", detail=error.message, hint="the kernel needs CONFIG_SECCOMP_FILTER")
    if "Seccomp:\t2" in status and "NoNewPrivs:\t1" in status:
        return Feature(name=name, state="works", detail="seccomp mode 2, no new privileges")
    return Feature(
        name=name, state="missing", detail="the runtime did not apply it", hint="use a runtime with +SECCOMP"
    )


async def _status_inside(runtime: Runtime, settings: Settings) -> str:
    container = f"probe-seccomp-{settings.id}"
    async with oci_runtime.trial_group(settings, container) as group:
        return await _status_in(group, container, runtime)


async def _status_in(group: str, container: str, runtime: Runtime) -> str:
    config = oci_runtime.tiny_config(group)
    config["process"] |= {"args": ["cat", "/proc/self/status"], "noNewPrivileges": True}
    config["linux"]["seccomp"] = seccomp.profile(capabilities.DEFAULT)
    with temporary.directory("probe") as directory:
        (directory / "rootfs").mkdir()
        (directory / "config.json").write_text(json.dumps(config))
        try:
            argv = runtime.arguments(container, "run", "--bundle", str(directory), container)
            return (await process.run(argv, timeout=20)).text
        finally:
            await runtime.delete(container)
