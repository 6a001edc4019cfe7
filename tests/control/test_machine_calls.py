"""What the containers of a machine were seen to call: each by its name, for the kernel that has to have it."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from whit.base.errors import InputError
from whit.base.settings import Settings
from whit.control.images import How
from whit.control.machines import settling
from whit.formats.machine.document import load_machine
from whit.image.sources import calls, specialised
from whit.image.store.images import ImageStore

ENTRY = "{{name: {0}, build: {{parts: [./{1}], check: [{{run: [/{1}]}}]}}}}"


@pytest.mark.root
async def test_every_container_is_held_to_what_its_checks_called(settings: Settings, tmp_path: Path) -> None:
    """One may have the name of another elsewhere: both are built, and neither takes the other's place."""
    for name, call in (("plain", "getpid()"), ("tool", "syscall(444, 0, 0, 1)")):  # landlock_create_ruleset
        (tmp_path / name).mkdir()
        source = f"#include <unistd.h>\nint main(void) {{ {call}; return 0; }}"
        output = tmp_path / name / name
        subprocess.run(["cc", "-static", "-w", "-x", "c", "-", "-o", output], input=source.encode(), check=True)
    rows = {"onboot": ENTRY.format("db", "plain"), "services": ENTRY.format("db", "tool")}
    text = "".join(f"{key}: [{row}]\n" for key, row in rows.items())
    (tmp_path / "machine.yml").write_text(f"kernel: {{image: specialised}}\n{text}")
    spec, store = load_machine(tmp_path / "machine.yml"), ImageStore(settings)
    names = await settling.images(spec, store, lambda _: None, How(observe=True))
    assert sorted(names.values()) == ["machine-db", "machine-db-2"]
    seen = settling.calls_of(spec, store, names)
    assert list(seen) == ["onboot db", "service db"]
    assert "landlock_create_ruleset" not in seen["onboot db"]
    with pytest.raises(InputError) as refused:
        calls.require(seen, specialised.configuration("amd64", specialised.SETS))
    assert refused.value.message.endswith(" seen: landlock_create_ruleset (CONFIG_SECURITY_LANDLOCK) of service db")
