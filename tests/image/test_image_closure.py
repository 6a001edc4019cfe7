"""What a closure reaches and what it leaves out: ELF files that a compiler made, scripts, configurations, Python."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.images import need

from whit.base.errors import InputError
from whit.image.linking import elf, imports, texts, trim
from whit.image.linking.closure import Closure, Wanted
from whit.image.linking.index import Index, matches
from whit.image.rootfs.tree import Entry, Tree

PATH = ("/usr/bin", "/bin")
PY = f"usr/lib/python3.{sys.version_info.minor}"
DIST = f"usr/local/lib/python3.{sys.version_info.minor}/dist-packages"


def tree(*entries: Entry) -> Index:
    result = Tree()
    for entry in entries:
        result.add(entry)
    return Index(result)


def file(path: str, content: bytes | str = b"", *, mode: int = 0o644, origin: str = "") -> Entry:
    return Entry(path, content=content.encode() if isinstance(content, str) else content, mode=mode, origin=origin)


def program(path: str, content: bytes | str, origin: str = "") -> Entry:
    return file(path, content, mode=0o755, origin=origin)


def link(path: str, target: str) -> Entry:
    return Entry(path, "symlink", target=target)


def reached(index: Index, *commands: str, working_dir: str = "", **wanted: object) -> dict[str, tuple[str, str]]:
    argv = tuple(tuple(command.split()) for command in commands)
    return Closure(index, Wanted(argv, PATH, working_dir, **wanted)).walk()  # type: ignore[arg-type]


# ---- ELF


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A program with two libraries, one of them found by $ORIGIN, made by the machine's compiler."""
    directory = tmp_path_factory.mktemp("elf")
    sources = {
        "one.c": "int one(void) { return 1; }",
        "two.c": "int one(void); int two(void) { return one() + 1; }",
        "main.c": 'int two(void); const char *p = "/etc/thing.conf", *q = "libplugin.so.3", *d = "/usr/share/thing", '
        '*r = "helper"; int main(void) { return two() + (p == q) + (d == r); }',
    }
    for name, text in sources.items():
        (directory / name).write_text(text)
    compiler = need("clang")
    for argv in (
        ["-shared", "-fPIC", "-nostdlib", "-Wl,-soname,libone.so.1", "one.c", "-o", "libone.so.1"],
        ["-shared", "-fPIC", "-nostdlib", "-Wl,-soname,libtwo.so.2", "two.c", "libone.so.1", "-o", "libtwo.so.2"],
        ["main.c", "libtwo.so.2", "-Wl,-rpath,$ORIGIN/../lib/thing", "-Wl,--allow-shlib-undefined", "-o", "main"],
    ):
        subprocess.run([compiler, *argv], cwd=directory, check=True, capture_output=True)
    return directory


def thing(built: Path) -> Iterator[Entry]:
    libraries = "usr/lib/x86_64-linux-gnu"
    yield program("usr/bin/thing", (built / "main").read_bytes(), "thing")
    yield link("usr/lib/thing/libtwo.so.2", "libtwo.so.2.0")
    yield file("usr/lib/thing/libtwo.so.2.0", (built / "libtwo.so.2").read_bytes(), origin="thing")
    yield file(f"{libraries}/libone.so.1", (built / "libone.so.1").read_bytes(), origin="one")
    yield file("usr/lib/libplugin.so.3", (built / "libone.so.1").read_bytes(), origin="plugin")
    yield file("usr/lib/libother.so.3", (built / "libone.so.1").read_bytes(), origin="plugin")
    yield file("etc/thing.conf", "# see /etc/never.conf\ninclude /etc/thing.d/*.conf\nroot /srv/www;\n", origin="thing")
    yield file("etc/thing.d/a.conf", "", origin="thing")
    yield file("etc/never.conf", "", origin="thing")
    yield file("srv/www/deep/index.html", "", origin="data")
    yield file("usr/share/thing/table", "", origin="thing")
    yield file("usr/share/thing/of-another", "", origin="another")
    yield program("usr/bin/helper", "#!/bin/none\n", "thing")
    yield program("usr/bin/unrelated", "#!/bin/none\n", "thing")
    yield file("usr/share/doc/thing/README", "", origin="thing")


def test_what_a_program_names_is_reached_with_its_reason(built: Path) -> None:
    found = reached(tree(*thing(built)), "thing --now")
    assert found["usr/bin/thing"] == ("command: thing --now", "")
    assert found["usr/lib/thing/libtwo.so.2"] == ("library libtwo.so.2", "usr/bin/thing")
    assert found["usr/lib/thing/libtwo.so.2.0"] == ("library libtwo.so.2", "usr/bin/thing")
    assert found["usr/lib/x86_64-linux-gnu/libone.so.1"] == ("library libone.so.1", "usr/lib/thing/libtwo.so.2.0")
    assert found["usr/lib/libplugin.so.3"] == ("may load libplugin.so.3", "usr/bin/thing")
    assert found["etc/thing.d/a.conf"] == ("named in", "etc/thing.conf")
    assert found["srv/www/deep/index.html"][1] == "etc/thing.conf"
    assert found["usr/share/thing/table"][1] == "usr/bin/thing"
    assert found["usr/bin/helper"] == ("program named in", "usr/bin/thing")


def test_what_nothing_names_is_not_reached(built: Path) -> None:
    found = reached(tree(*thing(built)), "thing")
    left = {"usr/lib/libother.so.3", "etc/never.conf", "usr/share/thing/of-another", "usr/bin/unrelated"}
    assert not left & found.keys()
    assert "usr/share/doc/thing/README" not in found


def test_excluded_is_never_reached_and_what_stays_leads_on(built: Path) -> None:
    index = tree(*thing(built))
    found = reached(index, "thing", excluded=lambda path: path.endswith("libplugin.so.3"))
    assert "usr/lib/libplugin.so.3" not in found
    assert reached(index, stay={"usr/lib/thing/libtwo.so.2": "include"})["usr/lib/x86_64-linux-gnu/libone.so.1"]


def test_library_of_another_machine_does_not_count(built: Path) -> None:
    foreign = bytearray((built / "libone.so.1").read_bytes())
    foreign[18:20] = b"\xb7\x00"  # EM_AARCH64
    entries = [one for one in thing(built) if not one.path.endswith("libone.so.1")]
    index = tree(*entries, file("usr/lib/x86_64-linux-gnu/libone.so.1", bytes(foreign)))
    assert "usr/lib/x86_64-linux-gnu/libone.so.1" not in reached(index, "thing")


def test_own_reader_agrees_with_readelf(built: Path) -> None:
    checked = 0
    candidates = [built / "main", built / "libtwo.so.2", *Path("/usr/bin").iterdir(), *Path("/usr/sbin").iterdir()]
    for path in candidates[:60]:
        if path.is_file() and path.read_bytes()[:4] == elf.MAGIC:
            needs = elf.read(path.read_bytes())
            said = subprocess.run([need("readelf"), "-dlW", path], capture_output=True, text=True, check=True).stdout
            assert needs
            assert list(needs.libraries) == [
                line.split("[")[1].rstrip("]") for line in said.splitlines() if "(NEEDED)" in line
            ]
            assert (f"interpreter: {needs.interpreter}]" in said) == bool(needs.interpreter)
            checked += 1
    assert checked > 10


@given(st.binary(max_size=400), st.integers(0, 2000), st.integers(0, 255))
def test_damaged_elf_needs_nothing_and_never_fails(tail: bytes, at: int, value: int) -> None:
    elf.read(elf.MAGIC + b"\x02\x01\x01" + tail)
    data = bytearray(Path("/bin/true").read_bytes()[:4096])
    data[at] = value
    elf.read(bytes(data))
    assert elf.read(b"") is None


def test_notes_about_dlopen_are_read(built: Path, tmp_path: Path) -> None:
    text = '[{"soname":["libnote.so.7"],"priority":"recommended"}]\0'
    text += "\0" * (-len(text) % 4)
    body = ",".join(str(byte) for byte in text.encode())
    source = tmp_path / "note.c"
    source.write_text(
        '__attribute__((section(".note.dlopen"),used,aligned(4))) static const struct { unsigned n, d, t; char o[4]; '
        f'char x[{len(text)}]; }} note = {{ 4, {len(text)}, 0x407c0c0a, "FDO", {{{body}}} }};'
    )
    argv = [need("clang"), "-shared", "-fPIC", "-nostdlib", source, "-o", tmp_path / "note.so"]
    subprocess.run(argv, check=True, capture_output=True)
    needs = elf.read((tmp_path / "note.so").read_bytes())
    assert needs
    assert needs.notes == ("libnote.so.7",)


# ---- scripts, links, commands


def test_scripts_reach_their_interpreter_and_their_commands() -> None:
    index = tree(
        program("usr/bin/run", "#!/usr/bin/env sh\n# never\nexec used --file /etc/my.conf\n"),
        *(program(f"usr/bin/{name}", "") for name in ("env", "dash", "used", "never")),
        link("usr/bin/sh", "dash"),
        link("bin", "usr/bin"),
        file("etc/my.conf"),
    )
    found = reached(index, "/bin/run")
    assert {"usr/bin/env", "usr/bin/sh", "usr/bin/dash", "usr/bin/used", "etc/my.conf", "bin"} <= found.keys()
    assert "usr/bin/never" not in found


def test_unknown_program_is_told() -> None:
    with pytest.raises(InputError, match="no program 'nginx'"):
        reached(tree(file("etc/passwd")), "nginx")


def test_links_in_a_circle_lead_nowhere() -> None:
    index = tree(link("a", "b"), link("b", "a"), link("c", "/../../etc/x"), file("etc/x"))
    assert index.find("a") is None
    found = index.find("c")
    assert found
    assert found.entry.path == "etc/x"


def test_globs_follow_links_and_stay_inside() -> None:
    index = tree(file("etc/real/a.conf"), file("etc/real/b.txt"), link("etc/conf.d", "real"))
    assert list(index.glob("/etc/conf.d/*.conf")) == ["etc/conf.d/a.conf"]
    assert list(index.glob("/nothing/*")) == []
    assert matches("usr/lib/x/y.so", ["/usr/lib/x"])
    assert matches("usr/lib/x/y.so", ["usr/lib/*.so"])
    assert not matches("usr/lib/x/y.so", ["usr/lib/y"])


def test_certificates_come_with_the_library_that_reads_them(built: Path) -> None:
    library = (built / "libone.so.1").read_bytes()
    bundle = "etc/ssl/certs/ca-certificates.crt"
    index = tree(file("usr/lib/libssl.so.3", library), file(bundle), file("etc/ssl/other"), program("usr/bin/x", ""))
    assert bundle in reached(index, "x", stay={"usr/lib/libssl.so.3": "test"})
    assert bundle not in reached(index, "x")


@given(st.binary(max_size=300))
def test_any_text_can_be_looked_through(data: bytes) -> None:
    for path in texts.paths(data):
        assert path.startswith("/")
    list(texts.words(data))
    texts.shebang(data)


# ---- Python


def python(*entries: Entry) -> Index:
    library = ("os", "abc", "site", "json/__init__", "json/decoder", "logging/__init__", "doctest", "pydoc")
    return tree(
        program(f"usr/bin/python3.{sys.version_info.minor}", ""),
        link("usr/bin/python3", f"python3.{sys.version_info.minor}"),
        *(file(f"{PY}/{name}.py", "") for name in library),
        *entries,
    )


def modules(index: Index, *commands: str) -> set[str]:
    found = reached(index, *commands, working_dir="/app")
    return {path for path in found if path.endswith((".py", ".so"))}


def test_imports_are_followed_and_optional_ones_may_be_missing() -> None:
    index = python(
        file(
            "app/main.py",
            "import json\nfrom pkg import sub, VALUE\ntry:\n    import nothing\nexcept ImportError: pass\n",
        ),
        file(f"{DIST}/pkg/__init__.py", "def lazy():\n    from . import late\n"),
        *(file(f"{DIST}/pkg/{name}.py", "") for name in ("sub", "late", "unused", "named", "_speed.abi3")),
        file(
            f"{DIST}/pkg/sub.py", 'import importlib\nCLASS = "pkg.named.Class"\nimportlib.import_module("pkg._speed")\n'
        ),
        file(f"{DIST}/pkg/_speed.abi3.so", ""),
    )
    found = modules(index, "python3 /app/main.py")
    wanted = {f"{DIST}/pkg/{name}" for name in ("__init__.py", "sub.py", "late.py", "named.py", "_speed.abi3.so")}
    assert wanted <= found
    assert f"{PY}/json/__init__.py" in found
    assert {f"{DIST}/pkg/unused.py", f"{PY}/logging/__init__.py"}.isdisjoint(found)


@pytest.mark.parametrize("command", ["python3 -m serve web:app", "python3 -m serve --x web:make"])
def test_arguments_that_name_modules_are_followed(command: str) -> None:
    index = python(file(f"{DIST}/serve.py", ""), file("app/web.py", "import json"))
    assert {f"{DIST}/serve.py", "app/web.py", f"{PY}/json/__init__.py"} <= modules(index, command)


def test_names_that_are_made_up_and_lazy_modules() -> None:
    index = python(
        file("app/main.py", 'import importlib\nimport pkg\nimportlib.import_module(f"pkg.backends.{name}")\n'),
        file(f"{DIST}/pkg/backends/fast.py"),
        file(f"{DIST}/pkg/other.py"),
        file(f"{DIST}/pkg/late.py"),
        file(f"{DIST}/pkg/later.py"),
        file(
            f"{DIST}/pkg/__init__.py",
            "if TYPE_CHECKING or not lazy():\n    from .late import x\nMAP = {'y': '.later'}\n",
        ),
    )
    found = modules(index, "python3 main.py")
    assert {f"{DIST}/pkg/{name}.py" for name in ("backends/fast", "late", "later")} <= found
    assert f"{DIST}/pkg/other.py" not in found
    lazy = "def __getattr__(name): ...\nif TYPE_CHECKING:\n    from .other import x\n"
    index = python(
        file("app/main.py", "import pkg"), file(f"{DIST}/pkg/__init__.py", lazy), file(f"{DIST}/pkg/other.py")
    )
    assert f"{DIST}/pkg/other.py" in modules(index, "python3 main.py")


def test_variables_of_shell_scripts_are_put_in() -> None:
    script = "#!/usr/bin/sh\nbin=/opt/tool/bin\nexec $bin/one ${bin}/two $binary/three\n"
    index = tree(
        program("usr/bin/run", script),
        program("usr/bin/sh", ""),
        *(program(f"opt/tool/bin/{name}", elf.MAGIC) for name in ("one", "two", "three")),
    )
    found = reached(index, "run")
    assert {"opt/tool/bin/one", "opt/tool/bin/two"} <= found.keys()
    assert "opt/tool/bin/three" not in found


def test_type_checking_tests_and_prompts_do_not_count() -> None:
    index = python(
        file("app/main.py", "import typing\nif typing.TYPE_CHECKING:\n    import logging\nimport lib\n"),
        file(f"{DIST}/lib.py", 'if __name__ == "__main__":\n    import logging\n'),
        file(f"{PY}/os.py", "def _test():\n    import logging\nimport doctest\n"),
    )
    found = modules(index, "python3 main.py")
    assert {f"{PY}/logging/__init__.py", f"{PY}/doctest.py"}.isdisjoint(found)
    assert f"{PY}/doctest.py" in modules(python(file("app/main.py", "import doctest")), "python3 main.py")


def test_data_metadata_and_plug_ins_of_a_distribution() -> None:
    origin = "pypi:dist"
    index = python(
        file("app/main.py", "import dist"),
        file(f"{DIST}/dist/__init__.py", 'GROUP = "dist.plugins"', origin=origin),
        file(f"{DIST}/dist/templates/page.html", "", origin=origin),
        file(f"{DIST}/dist/tests/data.json", "", origin=origin),
        file(f"{DIST}/dist/speed.c", "", origin=origin),
        file(f"{DIST}/dist-1.dist-info/METADATA", "Name: dist", origin=origin),
        file(f"{DIST}/dist-1.dist-info/RECORD", "", origin=origin),
        file(
            f"{DIST}/dist-1.dist-info/entry_points.txt",
            "[dist.plugins]\na = plug:x\n[other]\nb = never:x\n",
            origin=origin,
        ),
        file(f"{DIST}/plug.py"),
        file(f"{DIST}/never.py"),
    )
    found = reached(index, "python3 /app/main.py", working_dir="/app")
    assert {f"{DIST}/dist/templates/page.html", f"{DIST}/dist-1.dist-info/METADATA", f"{DIST}/plug.py"} <= found.keys()
    out = ("dist/tests/data.json", "dist/speed.c", "dist-1.dist-info/RECORD", "never.py")
    assert {f"{DIST}/{name}" for name in out}.isdisjoint(found)


def test_codecs_that_are_named() -> None:
    index = python(file("app/main.py", "x.decode('Shift-JIS')"), file(f"{PY}/encodings/shift_jis.py"))
    assert f"{PY}/encodings/shift_jis.py" in modules(index, "python3 main.py")


@given(st.text(max_size=200))
def test_any_source_can_be_scanned(text: str) -> None:
    imports.scan(text.encode("utf-8", "surrogatepass"), "m", package=False, standard=False, main=True)


def test_relative_imports() -> None:
    seen = imports.scan(
        b"from .. import a\nfrom .b import c\n", "top.pkg.mod", package=False, standard=False, main=False
    )
    assert {"top.a", "top.pkg.b", "top.pkg.b.c"} <= seen.imports
    seen = imports.scan(b"from . import a", "top.pkg", package=True, standard=False, main=False)
    assert "top.pkg.a" in seen.imports


# ---- trim


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("usr/share/doc/x/README.gz", "documentation"),
        ("usr/share/doc/x/copyright", ""),
        ("usr/share/man/man1/x.1.gz", "manual page"),
        ("usr/share/locale/de/LC_MESSAGES/x.mo", "translation"),
        ("usr/lib/locale/C.utf8/LC_CTYPE", ""),
        ("usr/lib/locale/de_DE/LC_CTYPE", "translation"),
        ("usr/lib/x86_64-linux-gnu/libc.a", "static library"),
        ("usr/include/stdio.h", "header"),
        ("usr/lib/x86_64-linux-gnu/pkgconfig/x.pc", "header"),
        ("var/cache/x/y", "cache"),
        ("usr/lib/x86_64-linux-gnu/libc.so.6", ""),
        ("usr/share/zoneinfo/UTC", ""),
        ("etc/nginx/nginx.conf", ""),
    ],
)
def test_trim(path: str, reason: str) -> None:
    assert trim.reason(path) == reason
