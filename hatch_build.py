"""Compiles the BPF objects before a wheel is made, so that the machine that installs it needs no compiler."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

ROOT = Path(__file__).resolve().parent


class ObjectsHook(BuildHookInterface):  # type: ignore[misc, type-arg, unused-ignore]  # absent when Whit is checked
    """BPF byte code is the same on every little-endian machine: the wheel stays pure (py3-none-any).

    The two programs of microVMs are named for their architecture; on another one only microVMs are missing.
    """

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if self.target_name != "wheel":
            return
        sys.path.insert(0, str(ROOT / "src"))
        from whit.datapath.build import build, object_path
        from whit.runtime import programs

        build()
        object_path("datapath")
        programs.build()
        build_data["pure_python"] = True
