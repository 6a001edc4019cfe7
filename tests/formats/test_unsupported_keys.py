"""Every key of the Compose Specification is honoured or refused by name, with a remedy; nothing is passed over."""

from __future__ import annotations

from pathlib import Path

import pytest

from whit.formats.app import appfile, service
from whit.formats.app.appfile import load_app
from whit.formats.app.unsupported import UNSUPPORTED
from whit.formats.problems import InvalidApp

# compose-spec.json, definitions.service.properties.
_SERVICE_KEYS = """
annotations attach blkio_config build cap_add cap_drop cgroup cgroup_parent command configs container_name cpu_count
cpu_percent cpu_period cpu_quota cpu_rt_period cpu_rt_runtime cpu_shares cpus cpuset credential_spec depends_on deploy
develop device_cgroup_rules devices dns dns_opt dns_search domainname entrypoint env_file environment expose extends
external_links extra_hosts gpus group_add healthcheck hostname image init ipc isolation label_file labels links logging
mac_address mem_limit mem_reservation mem_swappiness memswap_limit models network_mode networks oom_kill_disable
oom_score_adj pid pids_limit platform ports post_start pre_stop privileged profiles provider pull_policy
pull_refresh_after read_only restart runtime scale secrets security_opt shm_size stdin_open stop_grace_period
stop_signal storage_opt sysctls tmpfs tty ulimits use_api_socket user userns_mode uts volumes volumes_from working_dir
"""
SERVICE_KEYS = _SERVICE_KEYS.split()
_BUILD_KEYS = """
context dockerfile dockerfile_inline entitlements args ssh labels cache_from cache_to no_cache additional_contexts
network provenance sbom pull target shm_size extra_hosts isolation privileged secrets tags ulimits platforms
"""
BUILD_KEYS = _BUILD_KEYS.split()
DEPLOY_KEYS = [
    "mode",
    "endpoint_mode",
    "replicas",
    "labels",
    "resources",
    "placement",
    "restart_policy",
    "update_config",
    "rollback_config",
]
_TOP_KEYS = "version name include services models networks volumes secrets configs"
TOP_KEYS = _TOP_KEYS.split()

REFUSED = [
    *((f"services.web.{key}", f"services.*.{key}") for key in SERVICE_KEYS if key not in service.KEYS),
    *((f"services.web.build.{key}", f"services.*.build.{key}") for key in BUILD_KEYS if key != "context"),
    *(
        (f"services.web.deploy.{key}", f"services.*.deploy.{key}")
        for key in DEPLOY_KEYS
        if key not in ("replicas", "resources")
    ),
    *((key, key) for key in TOP_KEYS if key not in appfile.KEYS),
    ("services.web.pre_start", "services.*.pre_start"),
    ("services.web.deploy.resources.reservations", "services.*.deploy.resources.reservations"),
    *((f"volumes.data.{key}", f"volumes.*.{key}") for key in ("driver", "driver_opts", "external", "name")),
]


def test_the_list_is_that_of_the_specification() -> None:
    assert len(SERVICE_KEYS) == len(set(SERVICE_KEYS)) == 92


@pytest.mark.parametrize("key", SERVICE_KEYS)
def test_a_key_is_either_honoured_or_refused(key: str) -> None:
    assert (key in service.KEYS) != (f"services.*.{key}" in UNSUPPORTED)


@pytest.mark.parametrize(("written", "path"), REFUSED, ids=[written for written, _ in REFUSED])
def test_it_is_refused_with_place_and_remedy(tmp_path: Path, written: str, path: str) -> None:
    file = tmp_path / "compose.yaml"
    lines = [f"{'  ' * depth}{key}:" for depth, key in enumerate(written.split("."))]
    file.write_text("\n".join(lines) + " x\n")
    with pytest.raises(InvalidApp) as caught:
        load_app(file, environment={})
    problem = next(found for found in caught.value.problems if "is not honoured" in found.message)
    assert (problem.place.line, problem.place.column) == (len(lines), 2 * len(lines) - 1)
    assert problem.place.key == written
    assert problem.hint == UNSUPPORTED[path]
    assert f"{file}:{len(lines)}:{2 * len(lines) - 1}: {written}: is not honoured ({problem.hint})" in str(caught.value)


@pytest.mark.parametrize("key", ["comand", "port", "replica"])
def test_an_unknown_key_is_told_with_the_nearest(tmp_path: Path, key: str) -> None:
    file = tmp_path / "whit.yaml"
    file.write_text(f"services:\n  web:\n    image: x\n    {key}: y\n")
    with pytest.raises(InvalidApp, match=r"whit.yaml:4:5: .*is not a known key \(") as caught:
        load_app(file, environment={})
    if key != "replica":
        assert "did you mean" in str(caught.value)
