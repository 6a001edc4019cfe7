"""A tiny root file system, and a machine that starts instances of it and takes all of them away again."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from support.instances import Machine

from whit.base.settings import Settings
from whit.runtime.oci import OciDriver

PASSWD = "root:x:0:0:root:/root:/bin/sh\napp:x:1000:1000:An app:/home/app:/bin/sh\nnobody:x:65534:65534::/:/bin/false\n"
GROUP = "root:x:0:\napp:x:1000:\nextra:x:2000:app,other\nmore:x:2001:app\nnogroup:x:65534:\n"


@pytest.fixture(scope="session")
def rootfs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """busybox with all its names, users and the usual directories."""
    busybox = shutil.which("busybox")
    assert busybox, "busybox-static is not installed; requirements/debian-test.txt names it"
    root = tmp_path_factory.mktemp("image") / "rootfs"
    for name in ("bin", "etc", "home/app", "proc", "sys", "dev", "tmp", "root", "data"):
        (root / name).mkdir(parents=True)
    (root / "tmp").chmod(0o1777)
    (root / "data" / "seed").write_text("from the image\n")
    shutil.chown(root / "data", 1000, 1000)
    shutil.copy(busybox, root / "bin/busybox")
    applets = subprocess.run([busybox, "--list"], capture_output=True, text=True, check=True).stdout.split()
    for applet in set(applets) - {"busybox"}:
        (root / "bin" / applet).symlink_to("busybox")
    (root / "etc/passwd").write_text(PASSWD)
    (root / "etc/group").write_text(GROUP)
    return root


@pytest.fixture
async def machine(settings: Settings, rootfs: Path) -> AsyncIterator[Machine]:
    found = Machine(await OciDriver.open(settings), rootfs)
    try:
        yield found
    finally:
        await found.clean()
