"""The tiny root file system that guests run."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def tiny_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """busybox with all its names, two users and the usual directories."""
    busybox = shutil.which("busybox")
    assert busybox, "busybox-static is not installed; requirements/debian-test.txt names it"
    root = tmp_path_factory.mktemp("image") / "rootfs"
    for name in ("bin", "etc", "home/app", "root", "var"):
        (root / name).mkdir(parents=True)
    shutil.copy(busybox, root / "bin/busybox")
    for applet in set(subprocess.run([busybox, "--list"], capture_output=True, text=True, check=True).stdout.split()):
        if applet != "busybox":
            (root / "bin" / applet).symlink_to("busybox")
    (root / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\napp:x:1000:1000::/home/app:/bin/sh\n")
    (root / "etc/group").write_text("root:x:0:\napp:x:1000:\n")
    return root
