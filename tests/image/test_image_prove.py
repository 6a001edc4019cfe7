"""Images that prove themselves: a static program as the whole system, with checks that pass and checks that do not."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from support.images import need

from whit.base.errors import CheckFailed, InputError
from whit.base.settings import Settings
from whit.image.rootfs.accounts_file import Identity, identity
from whit.image.sandbox.processes import module_environment
from whit.image.store.images import ImageStore
from whit.model.build import BuildSpec, CheckSpec, DirectoryPart, Link, RunSpec
from whit.model.lock import Lock
from whit.model.progress import Report

pytestmark = pytest.mark.root

SOURCE = r"""
#include <arpa/inet.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

int main(int argc, char **argv) {
  if (argc > 2 && !strcmp(argv[1], "read")) return open(argv[2], O_RDONLY) < 0;
  if (argc > 1 && !strcmp(argv[1], "late")) {
    char path[64]; snprintf(path, sizeof path, "%s%s/%s%s", "/usr/sh", "are/tool", "unu", "sed");
    return open(path, O_RDONLY) < 0;
  }
  if (argc > 1 && !strcmp(argv[1], "who")) return printf("%d %d in %s\n", getuid(), getgid(), getcwd(0, 0)) < 0;
  if (argc > 1 && !strcmp(argv[1], "status")) return system("true") , execl("/proc/self/exe", "x", "cat", 0);
  if (argc > 1 && !strcmp(argv[1], "cat")) {
    char line[256]; FILE *file = fopen("/proc/self/status", "r");
    while (fgets(line, sizeof line, file)) fputs(line, stdout);
    return 0;
  }
  if (argc > 1 && !strcmp(argv[1], "connect")) {
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(53), .sin_addr.s_addr = inet_addr("192.0.2.1")};
    return connect(socket(AF_INET, SOCK_STREAM, 0), (void *)&to, sizeof to) == 0;
  }
  if (argc < 2 || strcmp(argv[1], "serve")) return 3;
  usleep(200000);
  int one = 1, server = socket(AF_INET, SOCK_STREAM, 0);
  struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons(8080)};
  setsockopt(server, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
  if (bind(server, (void *)&at, sizeof at) || listen(server, 5)) return 4;
  for (;;) {
    char text[1024]; int client = accept(server, 0, 0); read(client, text, sizeof text);
    const char *answer = "HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\nhello";
    write(client, answer, strlen(answer)); close(client);
  }
}
"""


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root with one static program, its data, and something that nobody needs."""
    root = tmp_path_factory.mktemp("system")
    for name in ("bin", "etc", "usr/share/tool"):
        (root / name).mkdir(parents=True)
    (root / "tool.c").write_text(SOURCE)
    argv = [need("gcc"), "-static", "-O1", "-w", root / "tool.c", "-o", root / "bin/tool"]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"no static C library here: {done.stderr[-200:]}")
    (root / "tool.c").unlink()
    (root / "etc/passwd").write_text("root:x:0:0::/root:\nwww:x:33:34::/srv:\n")
    (root / "etc/group").write_text("root:x:0:\nwww:x:34:\nlog:x:99:\n")
    (root / "etc/tool.conf").write_text("data /usr/share/tool/data\n")
    (root / "usr/share/tool/data").write_text("x" * 1000)
    (root / "usr/share/tool/unused").write_text("x" * 2000)
    return root


def spec(system: Path, *checks: CheckSpec, link: Link = "closure", **part: tuple[str, ...]) -> BuildSpec:
    parts = (DirectoryPart(path=system, label="./system", link=link, **part),)  # type: ignore[arg-type]
    run = RunSpec(commands=(("tool", "serve"),), memory=("/tmp",))
    return BuildSpec(parts=parts, check=checks, run=run)


SERVES = CheckSpec(start=("tool", "serve"), http="http://127.0.0.1:8080/x", contains="hello")
READS = CheckSpec(run=("tool", "read", "/usr/share/tool/data"))


async def test_closure_that_passes_is_accepted(store: ImageStore, system: Path, report: Report) -> None:
    image = await store.build("tool", spec(system, SERVES, READS), report)
    files = {str(path.relative_to(image.layers[0])) for path in image.layers[0].rglob("*") if path.is_file()}
    assert files == {"bin/tool", "etc/passwd", "etc/group", "usr/share/tool/data"}
    bill = store.bill("tool")
    assert bill.checks[0] == "http://127.0.0.1:8080/x of tool serve"
    assert bill.explain("/usr/share/tool/data")[1] == "named in the command of /bin/tool"
    assert {path for one in bill.left_out for path in one.examples} == {"etc/tool.conf", "usr/share/tool/unused"}
    assert (await store.build("tool", spec(system, SERVES, READS), report)).cached


async def test_closure_that_fails_is_not_written(store: ImageStore, system: Path, report: Report) -> None:
    missing = CheckSpec(run=("tool", "read", "/usr/share/tool/unused"))
    hidden = spec(system, READS, missing, exclude=("usr/share/tool/unused",))
    with pytest.raises(CheckFailed, match="ended with 1") as caught:
        await store.build("tool", hidden, report)
    assert caught.value.code == "check-failed"
    assert store.images() == []
    included = spec(system, READS, missing, include=("usr/share/tool/*",))
    assert (await store.build("tool", included, report)).layers


async def test_closure_without_a_check_is_refused(store: ImageStore, system: Path, report: Report) -> None:
    with pytest.raises(InputError, match="nothing proves"):
        await store.build("tool", spec(system), report)


@pytest.mark.parametrize(
    ("check", "said"),
    [
        (CheckSpec(run=("tool",)), "ended with 3"),
        (CheckSpec(run=("nothing",)), "not installed"),
        (CheckSpec(run=("tool", "who"), contains="77"), "does not contain '77'"),
        (
            CheckSpec(start=("tool", "serve"), http="http://127.0.0.1:8080/", status=404, timeout=4),
            "answers 200, not 404",
        ),
        (CheckSpec(start=("tool", "serve"), tcp=81, timeout=0.5), "no answer"),
        (CheckSpec(start=("tool", "die"), tcp=8080), "tool ended with 3"),
        (CheckSpec(run=("tool", "who"), user="nobody"), "no user nobody"),
    ],
)
async def test_what_a_check_says(store: ImageStore, system: Path, report: Report, check: CheckSpec, said: str) -> None:
    with pytest.raises(CheckFailed, match=said):
        await store.build("tool", spec(system, check, link="whole"), report)
    assert store.images() == []


async def test_checks_run_as_instances_do(store: ImageStore, system: Path, report: Report) -> None:
    """As the named user, without privileges to gain, without any network, and with the root of the image only."""
    checks = (
        CheckSpec(run=("tool", "who"), user="www", contains="33 34 in /"),
        CheckSpec(run=("tool", "who"), user="www:log", contains="33 99 in /"),
        CheckSpec(run=("tool", "cat"), contains="NoNewPrivs:\t1"),
        CheckSpec(run=("tool", "cat"), contains="CapBnd:\t00000000000405eb"),
        CheckSpec(run=("tool", "cat"), user="www", contains="CapEff:\t0000000000000000"),
        CheckSpec(run=("tool", "connect")),
        CheckSpec(run=("tool", "read", "/dev/null")),
    )
    await store.build("tool", spec(system, *checks, link="whole"), report)
    outside = CheckSpec(run=("tool", "read", "/etc/debian_version"))
    with pytest.raises(CheckFailed):
        await store.build("tool", spec(system, outside, link="whole"), report)


async def test_nothing_is_left_of_a_check(store: ImageStore, settings: Settings, system: Path, report: Report) -> None:
    await store.build("tool", spec(system, SERVES), report)
    # What else is mounted belongs to whatever runs beside this test; a check's mounts name a layer or scratch of ours.
    assert str(settings.state_dir) not in Path("/proc/self/mountinfo").read_text()
    assert list((settings.state_dir / "builds" / "work").iterdir()) == []
    listed = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
    assert str(settings.state_dir) not in listed


async def test_trimmed_and_excluded(store: ImageStore, tmp_path: Path, report: Report) -> None:
    for name in ("usr/share/man/man1/x.1", "usr/bin/x", "usr/lib/libx.a", "srv/kept", "srv/out/deep"):
        (tmp_path / "root" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "root" / name).write_text(name)
    part = DirectoryPart(path=tmp_path / "root", link="trim", exclude=("/srv/out",), include=("usr/lib/*.a",))
    image = await store.build("x", BuildSpec(parts=(part,)), report)
    paths = {str(path.relative_to(image.layers[0])) for path in image.layers[0].rglob("*")}
    assert paths == {"usr", "usr/bin", "usr/bin/x", "usr/lib", "usr/lib/libx.a", "usr/share", "srv", "srv/kept"}
    reasons = {(one.reason, one.files) for one in store.bill("x").left_out}
    assert reasons == {("manual page", 1), ("excluded", 1)}


async def test_observed_run_finds_what_no_text_names(store: ImageStore, system: Path, report: Report) -> None:
    late = spec(system, CheckSpec(run=("tool", "late")))
    with pytest.raises(CheckFailed):
        await store.build("tool", late, report)
    image = await store.build("tool", late, report, observe=True)
    assert (image.layers[0] / "usr/share/tool/unused").exists()
    assert store.bill("tool").explain("/usr/share/tool/unused")[1] == "opened in the observed run"
    lock = store.observed("tool")
    assert [one.files for one in lock.entries.values()] == [("usr/share/tool/unused",)]
    again = await store.build("tool", late, report, lock=Lock.parse(lock.encode()))
    assert again.digest == image.digest


def test_identities(system: Path) -> None:
    passwd, group = system / "etc/passwd", system / "etc/group"
    assert identity(passwd, group, "") == Identity(0, 0, "/root")
    assert identity(passwd, group, "33") == Identity(33, 34, "/srv")
    assert identity(passwd, group, "7:8") == Identity(7, 8, "/")
    assert identity(passwd, group, "www:log") == Identity(33, 99, "/srv")
    with pytest.raises(InputError, match="no group"):
        identity(passwd, group, "www:nothing")
    assert identity(Path("/nonexistent"), Path("/nonexistent"), "") == Identity(0, 0, "/")


def test_a_person_without_root_proves_too(system: Path, open_directory: Path) -> None:
    """In a user namespace, with a store of their own."""
    app = open_directory / "app"
    app.mkdir()
    (app / "whit.yaml").write_text(
        "services: {tool: {command: [tool, serve], build: {parts: [{part: ../system, link: closure}], check: "
        "[{start: [tool, serve], http: 'http://127.0.0.1:8080/'}]}}}\n"
    )
    shutil.copytree(system, open_directory / "system", symlinks=True)
    subprocess.run(["chmod", "-R", "a+rX", open_directory], check=True)
    home = open_directory / "home"
    home.mkdir()
    os.chown(home, 65534, 65534)
    argv = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", sys.executable, "-m", "whit.cli"]
    env = {**module_environment(), "HOME": str(home), "PATH": os.environ["PATH"]}
    done = subprocess.run([*argv, "build", app], env=env, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "app-tool" in done.stdout
    assert (home / ".local/share/whit/whit/images/index.json").exists()
