"""What the Compose Specification has and Whit does not honour: one table, from the path of a key to its remedy.

The keys are those of compose-spec.json (github.com/compose-spec/compose-spec) in 2026. Nothing of it is passed over in
silence: a key is honoured by its reader, or refused from here, or unknown.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from whit.base.errors import InputError, UnknownKey
from whit.formats.nodes import Entry, Table
from whit.formats.problems import Problems, near

_LEAVE = "leave it out"
_MESH = "every service has an address and a name in the app; say who reaches whom with `uses`"
_ADDRESSES = "addresses are given by the mesh; use the services' names"
_BUILD = "an image is linked from parts; use build.parts"
_CGROUP = "use mem_limit, cpus and pids_limit"
_FILES = "mount a file with `volumes`, or pass it in `environment`"
_ROLLING = "instances are replaced one after the other; leave it out"
_NAMESPACES = "an instance has its own; leave it out"
_BLOCK_IO = "input and output are not limited yet; leave it out"
_LAYERS = "parts are cached by what is in them; leave it out"

_TOP = {
    "configs": _FILES,
    "include": "write the services into this file",
    "models": "run the model as a service and name it in `uses`",
    "secrets": _FILES,
}

_SERVICE = {
    "annotations": "use labels",
    "attach": "whit logs --follow shows the output",
    "blkio_config": _BLOCK_IO,
    "cgroup": _NAMESPACES,
    "cgroup_parent": "an instance has a control group below its app's; leave it out",
    "configs": _FILES,
    "container_name": "instances are named <app>-<service>-<number>; leave it out",
    "cpu_count": "use cpus",
    "cpu_percent": "use cpus",
    "cpu_period": "use cpus",
    "cpu_quota": "use cpus",
    "cpu_rt_period": "use cpus",
    "cpu_rt_runtime": "use cpus",
    "cpu_shares": "use cpus",
    "cpuset": "use cpus",
    "credential_spec": "it is for Windows; leave it out",
    "develop": "run whit up again after a change; only what changed is built",
    "device_cgroup_rules": "devices of the node are not given to instances; leave it out",
    "devices": "devices of the node are not given to instances; leave it out",
    "dns": "names are answered by the app's resolver; leave it out",
    "dns_opt": "names are answered by the app's resolver; leave it out",
    "dns_search": "names are answered by the app's resolver; leave it out",
    "domainname": "the host name is the instance's; leave it out",
    "extends": "extend an entry of the catalogue (catalog:NAME), or use a YAML anchor and `<<`",
    "external_links": "name the address in `uses` with cidr",
    "extra_hosts": "bring /etc/hosts in a part, or name services as they are in the app",
    "gpus": "devices of the node are not given to instances; leave it out",
    "group_add": "use user: NAME:GROUP",
    "hostname": "the host name is the instance's; leave it out",
    "init": "begin the command with an init that is in a part, as debian:tini",
    "ipc": _NAMESPACES,
    "label_file": "use labels",
    "links": "use depends_on for the order and `uses` for the reach",
    "logging": "output is kept by Whit; read it with whit logs",
    "mac_address": _MESH,
    "mem_reservation": "use mem_limit",
    "mem_swappiness": "use mem_limit",
    "memswap_limit": "use mem_limit; instances do not swap",
    "models": "run the model as a service and name it in `uses`",
    "network_mode": _MESH,
    "oom_kill_disable": "use mem_limit",
    "oom_score_adj": "use mem_limit",
    "pid": _NAMESPACES,
    "platform": "images are for the node's own platform; leave it out",
    "post_start": "do it in the command, before the program starts",
    "pre_start": "do it in the command, before the program starts",
    "pre_stop": "do it in the program, on stop_signal",
    "privileged": "name what is needed in cap_add",
    "profiles": "write a second app file for what is not always run",
    "provider": "run it as a service",
    "pull_policy": "an image is fetched when it is not there; whit build --refresh fetches anew",
    "pull_refresh_after": "an image is fetched when it is not there; whit build --refresh fetches anew",
    "runtime": "the runtime is the node's; leave it out",
    "secrets": _FILES,
    "security_opt": "instances have a system-call filter and no new privileges; leave it out",
    "shm_size": "mount a tmpfs with a size on /dev/shm",
    "stdin_open": "use whit exec for a terminal",
    "storage_opt": "mount a volume",
    "sysctls": "set it on the node; leave it out",
    "tty": "use whit exec for a terminal",
    "ulimits": _CGROUP,
    "use_api_socket": "an instance does not reach the agent; leave it out",
    "userns_mode": _NAMESPACES,
    "uts": _NAMESPACES,
    "volumes_from": "name the same volume in both services",
}

_BUILD_KEYS = {
    "additional_contexts": "bring it as a part",
    "args": "parts have no arguments; use environment",
    "cache_from": _LAYERS,
    "cache_to": _LAYERS,
    "dockerfile": _BUILD,
    "dockerfile_inline": _BUILD,
    "entitlements": _BUILD,
    "extra_hosts": _BUILD,
    "isolation": _BUILD,
    "labels": "use the service's labels",
    "network": "no command runs while an image is linked; leave it out",
    "no_cache": "use whit build --refresh",
    "platforms": "images are for the node's own platform; leave it out",
    "privileged": "no command runs while an image is linked; leave it out",
    "provenance": "the image's parts and digests are recorded; leave it out",
    "pull": "use whit build --refresh",
    "sbom": "the image's parts and digests are recorded; leave it out",
    "secrets": "no command runs while an image is linked; leave it out",
    "shm_size": "no command runs while an image is linked; leave it out",
    "ssh": "no command runs while an image is linked; leave it out",
    "tags": "the image is named <app>/<service>; leave it out",
    "target": _BUILD,
    "ulimits": "no command runs while an image is linked; leave it out",
}

_DEPLOY = {
    "endpoint_mode": "every service has one address; leave it out",
    "labels": "use the service's labels",
    "mode": "use deploy.replicas",
    "placement": "there is one node; leave it out",
    "restart_policy": "use restart",
    "rollback_config": _ROLLING,
    "update_config": _ROLLING,
    "resources.reservations": "use deploy.resources.limits",
}

_INSIDE_SERVICE = {
    "depends_on.*.restart": "instances find each other anew; leave it out",
    "env_file[].format": "values are interpolated unless in single quotes; leave it out",
    "ports[].app_protocol": _LEAVE,
    "ports[].mode": "every node that runs the service publishes; leave it out",
    "volumes[].bind.propagation": "mounts are private; leave it out",
    "volumes[].bind.recursive": "mounts below the directory come along; leave it out",
    "volumes[].bind.selinux": _LEAVE,
    "volumes[].consistency": _LEAVE,
    "volumes[].image": "bring the image as a part",
    "volumes[].volume.labels": "put the labels to the top-level volume",
    "volumes[].volume.nocopy": "a new volume is empty; leave it out",
    "volumes[].volume.subpath": "use a volume of its own",
}

_MEMBERSHIP = {
    "aliases": "a service has one name; name the service so",
    "driver_opts": _ADDRESSES,
    "gw_priority": "an instance has one interface; leave it out",
    "interface_name": "an instance has one interface, eth0; leave it out",
    "ipv4_address": _ADDRESSES,
    "ipv6_address": _ADDRESSES,
    "link_local_ips": _ADDRESSES,
    "mac_address": _ADDRESSES,
    "priority": "an instance has one interface; leave it out",
}

_NETWORK = {
    "attachable": "networks belong to an app; leave it out",
    "driver_opts": "the mesh is the only driver; leave it out",
    "enable_ipv4": "services have addresses of both families; leave it out",
    "enable_ipv6": "services have addresses of both families; leave it out",
    "external": "networks belong to an app; admit other apps with `policies`",
    "ipam": _ADDRESSES,
    "name": "a network is named by its key; leave it out",
}

_VOLUME = {
    "driver": "volumes are directories of the node; leave it out",
    "driver_opts": "mount a path of the node with `volumes` in the service",
    "external": "volumes belong to an app; mount a path of the node instead",
    "name": "a volume is named by its key; leave it out",
}

UNSUPPORTED: dict[str, str] = {
    **_TOP,
    **{f"services.*.{key}": remedy for key, remedy in {**_SERVICE, **_INSIDE_SERVICE}.items()},
    **{f"services.*.build.{key}": remedy for key, remedy in _BUILD_KEYS.items()},
    **{f"services.*.deploy.{key}": remedy for key, remedy in _DEPLOY.items()},
    **{f"services.*.networks.*.{key}": remedy for key, remedy in _MEMBERSHIP.items()},
    **{f"networks.*.{key}": remedy for key, remedy in _NETWORK.items()},
    **{f"volumes.*.{key}": remedy for key, remedy in _VOLUME.items()},
}
"""`*` stands for the name of a service or volume, `[]` for an item of a list."""


def refuse(
    table: Table,
    parent: str,
    honoured: Collection[str],
    problems: Problems,
    unsupported: Mapping[str, str] = UNSUPPORTED,
) -> None:
    """A problem for each key of the table at the path `parent` that is not honoured. Keys from x- on are free."""
    for entry in table.entries.values():
        if entry.key not in honoured and not entry.key.startswith("x-"):
            problems.add(refusal(entry, parent, honoured, unsupported))


def refusal(
    entry: Entry, parent: str, honoured: Iterable[str], unsupported: Mapping[str, str] = UNSUPPORTED
) -> InputError:
    """Why a key is not read: it is not honoured, or nobody knows it."""
    path = f"{parent}.{entry.key}" if parent else entry.key
    if remedy := unsupported.get(path):
        return UnknownKey("is not honoured", place=entry.place, hint=remedy)
    known = known_keys(parent, honoured, unsupported)
    return UnknownKey("is not a known key", place=entry.place, hint=near(entry.key, known))


def known_keys(parent: str, honoured: Iterable[str], unsupported: Mapping[str, str] = UNSUPPORTED) -> set[str]:
    """The keys at the path `parent`: honoured ones, and refused ones."""
    start = f"{parent}." if parent else ""
    rest = {path.removeprefix(start) for path in unsupported if path.startswith(start)}
    return {*honoured, *(key for key in rest if not set(key) & set(".*["))}
