"""Mistakes in machine files: each kind has a code of its own, and says where it is and what to do."""

from __future__ import annotations

from pathlib import Path

import pytest

from whit.formats.machine.document import load_machine
from whit.formats.problems import InvalidApp

SERVICE = "services: [{{name: web, image: web, {}}}]"

MISTAKES = [
    ("servces: []", "unknown-key", "did you mean services"),
    ("kernel: {cmdline: x}", "machine-no-kernel-image", "has no image"),
    ("kernel: {image: debian, binary: x}", "machine-kernel-part", "no binary to choose"),
    ("kernel: {image: debian, cmdline: linuxkit.unified_cgroup_hierarchy=0}", "machine-cgroup-v1", "not honoured"),
    ("kernel: text", "machine-kernel", "must be a table"),
    ("kernel: {image: debian, cmdline: [a]}", "machine-cmdline", "must be text"),
    ("init: linuxkit", "machine-init", "must be a list"),
    ("services: {web: x}\nkernel: {image: debian}", "machine-services", "must be a list"),
    ("services: [{image: web}]", "machine-no-name", "has no name"),
    ("services: [{name: 'a b', image: web}]", "machine-name", "is no name"),
    ("services: [{name: web}]", "machine-no-image", "has no image"),
    ("services: [{name: web, image: web, build: .}]", "machine-image-and-build", "both image and build"),
    ("services: [{name: web, image: '@pkg:./pkg/web'}]", "machine-template", "is a template"),
    ("services: [{name: web, image: ./gone}]", "machine-image-path", "does not exist"),
    ("services: [{name: web, image: ./app}]", "machine-image-of-app", "builds 2 images"),
    ("services: [{name: a, image: a}, {name: a, image: b}]", "machine-service-twice", "there twice"),
    ("services: [{name: a, image: a, after: [b]}]", "machine-after-unknown", "there is no service b"),
    ("services: [{name: a, image: a, after: [b]}, {name: b, image: b}]", "machine-after-later", "comes after"),
    (SERVICE.format("capabilities: [CAP_NONE]"), "machine-capabilities", "is no capability"),
    (SERVICE.format("capabilities.add: [x]"), "machine-capabilities-add", "is no capability"),
    (SERVICE.format("ambient: kill"), "machine-ambient", "must be a list"),
    (SERVICE.format("binds: ['/a']"), "machine-binds", "SOURCE:DESTINATION"),
    (SERVICE.format("binds.add: ['/a:/b:rwx']"), "machine-binds-add", "no option of a bind"),
    (SERVICE.format("binds: ['data:/b']"), "machine-no-volume", "binds data, which is no volume"),
    (SERVICE.format("mounts: [{destination: x}]"), "machine-destination", "not a path from the root"),
    (SERVICE.format("mounts: [{type: tmpfs}]"), "machine-no-destination", "has no destination"),
    (SERVICE.format("tmpfs: [tmp]"), "machine-tmpfs", "DESTINATION[:OPTIONS]"),
    (SERVICE.format("devices: [{path: /dev/x}]"), "machine-no-type", "has no type"),
    (SERVICE.format("devices: [{path: /dev/x, type: z}]"), "machine-type", "is not known"),
    (SERVICE.format("env: [A]"), "machine-env", "NAME=value"),
    (SERVICE.format("cwd: srv"), "machine-cwd", "not a path from the root"),
    (SERVICE.format("net: bridge"), "machine-net", "is no namespace"),
    (SERVICE.format("pid: none"), "machine-pid", "is no namespace"),
    (SERVICE.format("uid: -1"), "machine-uid", "neither a number nor a service"),
    (SERVICE.format("gid: nobody"), "machine-no-such-owner", "is no container"),
    (SERVICE.format("readonly: perhaps"), "machine-readonly", "not true or false"),
    (SERVICE.format("oomScoreAdj: 1001"), "machine-oom-score-adj", "not from -1000 to 1000"),
    (SERVICE.format("rootfsPropagation: both"), "machine-rootfs-propagation", "is not known"),
    (SERVICE.format("sysctl: {forward: 1}"), "machine-sysctl", "no setting of the kernel"),
    (SERVICE.format("rlimits: ['nofile,2,1']"), "machine-rlimits", "above the hard one"),
    (SERVICE.format("uidMappings: [{containerID: 0}]"), "machine-no-host-id", "has no hostID"),
    (SERVICE.format("resources: {memory: {limit: 1g}}"), "machine-limit", "not a whole number"),
    (SERVICE.format("resources: {cpu: {cpus: all}}"), "machine-cpus", "no set of numbers"),
    (SERVICE.format("runtime: {mkdir: [x]}"), "machine-mkdir", "not a path from the root"),
    (SERVICE.format("runtime: {interfaces: [{name: e0, add: veth}]}"), "machine-interfaces", "two ends"),
    (SERVICE.format("ready: {}"), "machine-ready", "exactly one of tcp and path"),
    (SERVICE.format("restart: sometimes"), "machine-restart", "is not known"),
    (SERVICE.format("stop_grace_period: 5"), "machine-stop-grace-period", "not a duration"),
    (SERVICE.format("build: {parts: []}").replace("image: web, ", ""), "build-no-parts", "has no parts"),
    ("files: [{contents: x}]", "machine-no-path", "has no path"),
    ("files: [{path: ../x, contents: x}]", "machine-path", "no place of a file"),
    ("files: [{path: x}]", "machine-empty-file", "is nothing"),
    ("files: [{path: x, contents: y, symlink: z}]", "machine-ambiguous-file", "symlink and contents"),
    ("files: [{path: x, contents: y, optional: true}]", "machine-optional", "only what has a source"),
    ("files: [{path: x, source: gone}]", "machine-file-source", "cannot be read"),
    ("files: [{path: x, contents: y, mode: '0888'}]", "machine-mode", "is not a mode"),
    ("files: [{path: x, metadata: json}]", "machine-metadata", "is not known"),
    ("volumes: [{name: A}]", "machine-name", "no volume's name"),
    ("volumes: [{name: a}, {name: a}]", "machine-volume-twice", "there twice"),
    ("volumes: [{name: a, format: oci}]", "machine-volume-format", "has an image"),
    ("volumes: [{name: a, format: ext4}]", "machine-format", "is not known"),
    (
        "volumes: [{name: a, readonly: true}]\n" + SERVICE.format("binds: ['a:/a']"),
        "machine-readonly-volume",
        "would write to the read-only volume a",
    ),
]


@pytest.mark.parametrize(
    ("text", "code", "message"), MISTAKES, ids=[f"{code}-{text[:40]}" for text, code, _ in MISTAKES]
)
def test_a_mistake(tmp_path: Path, text: str, code: str, message: str) -> None:
    (tmp_path / "app").mkdir()
    (tmp_path / "app/whit.yaml").write_text(
        "services: {a: {build: {parts: [debian:dash]}}, b: {build: {parts: [debian:dash]}}}"
    )
    file = tmp_path / "machine.yml"
    file.write_text(text + "\n")
    with pytest.raises(InvalidApp) as caught:
        load_machine(file)
    assert [problem.code for problem in caught.value.problems] == [code]
    assert message in str(caught.value)
    assert f"{file}:" in str(caught.value)
    assert caught.value.problems[0].place.line > 0


def test_codes_are_distinct() -> None:
    codes = [code for _, code, _ in MISTAKES]
    assert len(codes) - len(set(codes)) <= 1, "a name of a volume and of a service are one key"


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    from whit.base.errors import InputError

    with pytest.raises(InputError) as caught:
        load_machine(tmp_path / "gone.yml")
    assert caught.value.code == "machine-unreadable"
