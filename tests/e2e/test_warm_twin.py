"""A replica that begins from the file in which another one sleeps: the same memory, and another name and address."""

from __future__ import annotations

import secrets
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from support.leftovers import leftovers_after
from support.slowness import patient
from support.warm import Warm
from support.whit import Whit

from whit.base.settings import Settings
from whit.runtime.layout import Layout

pytestmark = [pytest.mark.root, pytest.mark.machine, pytest.mark.network, pytest.mark.timeout(900), pytest.mark.full]

LOOK = """
#include <arpa/inet.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>
#include <sys/utsname.h>
#include <time.h>
static void file(const char *name, const char *path)
{
	char text[4096];
	FILE *from = fopen(path, "r");

	while (from && fgets(text, sizeof(text), from))
		printf("%s=%s", name, text);
}
int main(void)
{
	struct ifaddrs *all, *one;
	unsigned long long drawn;
	struct utsname names;
	char text[100];

	if (getrandom(&drawn, sizeof(drawn), 0) != sizeof(drawn) || uname(&names) || getifaddrs(&all))
		return 1;
	printf("time=%ld\\ndrawn=%llx\\nname=%s\\n", (long)time(NULL), drawn, names.nodename);
	file("boot", "/proc/sys/kernel/random/boot_id");
	file("mac", "/sys/class/net/eth0/address");
	file("hostname", "/etc/hostname");
	file("hosts", "/etc/hosts");
	for (one = all; one; one = one->ifa_next) {
		void *place = !one->ifa_addr ? NULL : one->ifa_addr->sa_family == AF_INET ?
			(void *)&((struct sockaddr_in *)one->ifa_addr)->sin_addr : one->ifa_addr->sa_family == AF_INET6 ?
			(void *)&((struct sockaddr_in6 *)one->ifa_addr)->sin6_addr : NULL;

		if (place && !strcmp(one->ifa_name, "eth0") && inet_ntop(one->ifa_addr->sa_family, place, text, sizeof(text)))
			printf("address=%s\\n", text);
	}
	return 0;
}
"""


@pytest.fixture
def warm(tmp_path: Path) -> Iterator[Warm]:
    settings = Settings(id=f"t{secrets.token_hex(3)}", state_root=tmp_path / "state")
    whit = Whit(settings)
    (tmp_path / "app/server").mkdir(parents=True)
    argv = ["gcc", "-O2", "-static", "-s", "-x", "c", "-o", tmp_path / "app/server/look", "-"]
    subprocess.run(argv, input=LOOK.encode(), check=True, timeout=120)
    try:
        yield Warm(whit, tmp_path / "app", "snapshot", after="1s", more="isolation: microvm")
    finally:
        whit("down", "warm", check=False)
        whit.clean()
    assert not (left := leftovers_after(settings)), left
    shutil.rmtree(settings.run_dir, ignore_errors=True)


def scaled(warm: Warm, replicas: int) -> None:
    """The app as it was, with so many replicas of the service."""
    write_replicas(warm, replicas)
    warm.whit("up", str(warm.directory), timeout=300)


def write_replicas(warm: Warm, replicas: int) -> None:
    file, line = warm.directory / "whit.yaml", "    isolation: microvm\n"
    head, _, tail = file.read_text().partition(line)
    file.write_text(f"{head}{line}    deploy: {{replicas: {replicas}}}\n{tail}")


def seen_in(warm: Warm, name: str) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {"began": [str(time.time())]}
    for line in warm.whit("exec", name, "/look", timeout=120).stdout.splitlines():
        key, _, value = line.partition("=")
        found.setdefault(key, []).append(value)
    return found | {"ended": [str(time.time())]}


@contextmanager
def kept_awake(warm: Warm, name: str) -> Iterator[None]:
    argv = [sys.executable, "-m", "whit.cli", "exec", name, "/late", "600000"]
    with subprocess.Popen(argv, env=warm.whit.env, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL) as command:
        try:
            until, since = time.monotonic() + patient(60), time.monotonic()
            # It would have fallen asleep by then, if the command did not run.
            while time.monotonic() < since + 3:
                assert time.monotonic() < until, warm.status(name)
                since = since if warm.status(name).state == "running" else time.monotonic()
                time.sleep(0.05)
            yield
        finally:
            command.terminate()


def said(warm: Warm) -> str:
    return (warm.whit.settings.logs_dir / "whitd.log").read_text()


def check_identity(warm: Warm, name: str, hostname: str, seen: dict[str, list[str]]) -> None:
    status = warm.status(name)
    addresses = {one for one in (status.address, status.address6) if one}
    assert set(seen["address"]) == addresses
    assert seen["name"] == seen["hostname"] == [hostname]
    assert {line.split()[0] for line in seen["hosts"] if hostname in line.split()} == addresses
    began, now, ended = (float(seen[key][0]) for key in ("began", "time", "ended"))
    assert began - 2 < now < ended + 2


def test_a_second_replica_begins_from_the_first_and_is_another(warm: Warm) -> None:
    # What a kernel draws when it is first asked, and keeps.
    boot = seen_in(warm, "warm-web-1")["boot"]
    warm.wait_until("snapshot", 120)
    scaled(warm, 2)
    assert "warm-web-2 begins from the file of warm-web-1" in said(warm)
    assert warm.status().state == "snapshot", "it was not woken for that"
    second, first = seen_in(warm, "warm-web-2"), seen_in(warm, "warm-web-1")
    assert warm.status().message == "", "its own file is as it was"
    assert boot == first["boot"] == second["boot"], "the memory is the same"
    for key in ("drawn", "mac", "address"):
        assert first[key] != second[key]
    check_identity(warm, "warm-web-1", "web-1", first)
    check_identity(warm, "warm-web-2", "web-2", second)
    for name in ("warm-web-1", "warm-web-2"):
        with kept_awake(warm, name):
            found = warm.whit.json("trace", "client", name, "8080")
            assert found["outcome"] == "answered", found
    # And it sleeps and wakes as any other.
    until = time.monotonic() + 120
    while warm.status("warm-web-2").state != "snapshot":
        assert time.monotonic() < until, warm.status("warm-web-2")
        time.sleep(0.1)
    again = seen_in(warm, "warm-web-2")
    assert warm.status("warm-web-2").message == ""
    check_identity(warm, "warm-web-2", "web-2", again)
    assert again["boot"] == boot


def test_from_a_file_that_cannot_be_used_it_is_started(warm: Warm) -> None:
    warm.wait_until("snapshot", 120)
    snapshot = Layout(warm.whit.settings, "warm-web-1").snapshot
    content = bytearray(snapshot.read_bytes())
    content[len(content) // 2] ^= 1
    snapshot.write_bytes(content)
    scaled(warm, 2)
    assert "warm-web-2 cannot begin from warm-web-1 and is started" in said(warm)
    assert warm.status("warm-web-2").message == ""
    check_identity(warm, "warm-web-2", "web-2", seen_in(warm, "warm-web-2"))
    assert warm.status().state == "snapshot"


@pytest.mark.parametrize("seconds", [0.3, 0.6])
def test_an_agent_that_is_killed_over_it_leaves_nothing_half(warm: Warm, seconds: float) -> None:
    warm.wait_until("snapshot", 120)
    write_replicas(warm, 2)
    argv = [sys.executable, "-m", "whit.cli", "up", str(warm.directory)]
    with subprocess.Popen(argv, env=warm.whit.env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as command:
        until = time.monotonic() + patient(60)
        while "Start(name='warm-web-2')" not in said(warm):
            assert time.monotonic() < until
            time.sleep(0.02)
        time.sleep(seconds)
        warm.whit.kill_agent()
        command.wait(patient(60))
    warm.whit.start_agent()
    warm.whit("up", str(warm.directory), timeout=300)
    check_identity(warm, "warm-web-2", "web-2", seen_in(warm, "warm-web-2"))
    check_identity(warm, "warm-web-1", "web-1", seen_in(warm, "warm-web-1"))
    assert warm.status().message == "", "its own file is as it was"
