"""Capstan's files: each key is honoured or refused with file and line, and what comes of them is an app."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from whit.base.errors import InputError
from whit.formats.app.appfile import find_app_file, load_app
from whit.formats.capstan import keys
from whit.model.build import DebianPart, DirectoryPart
from whit.model.service import ServiceSpec

PACKAGE = "name: eu.demo.hello\ntitle: Hello\nauthor: A. Person\n"


def project(tmp_path: Path, files: dict[str, str]) -> Path:
    root = tmp_path / "hello"
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def service(tmp_path: Path, files: dict[str, str]) -> ServiceSpec:
    app = load_app(project(tmp_path, files), environment={})
    assert app.name == "hello"
    assert app.mode == "open"
    return app.services["hello"]


def mistakes(tmp_path: Path, files: dict[str, str]) -> str:
    with pytest.raises(InputError) as caught:
        load_app(project(tmp_path, files), environment={})
    return str(caught.value)


# ---- Capstanfile ----


def test_a_capstanfile_is_an_app(tmp_path: Path) -> None:
    text = "base: cloudius/osv\ncmdline: /usr/bin/hello -x 'a b'\nfiles:\n  /usr/bin/hello: out/&\n  /etc/hello: conf\n"
    found = service(tmp_path, {"Capstanfile": text, "out/hello": "#!", "conf/a": "1", "ROOTFS/srv/x": "y"})
    assert found.command == ("/usr/bin/hello", "-x", "a b")
    assert found.build
    root = tmp_path / "hello"
    parts = [(part.path, part.target) for part in found.build.parts if isinstance(part, DirectoryPart)]
    assert parts == [(root / "ROOTFS", ""), (root / "out/hello", "usr/bin/hello"), (root / "conf", "etc/hello")]
    assert found.build.needs == ("base",)


def test_a_named_rootfs_is_taken_instead(tmp_path: Path) -> None:
    found = service(tmp_path, {"Capstanfile": "cmdline: /x\nrootfs: image\n", "image/x": "1", "ROOTFS/y": "2"})
    assert found.build
    assert [part.path.name for part in found.build.parts if isinstance(part, DirectoryPart)] == ["image"]


def test_a_java_base_is_debians_java(tmp_path: Path) -> None:
    text = "base: cloudius/osv-openjdk8\ncmdline: /java.so -jar /app.jar\nfiles: {/app.jar: app.jar}\n"
    found = service(tmp_path, {"Capstanfile": text, "app.jar": ""})
    assert found.command == (keys.JAVA, "-jar", "/app.jar")
    assert found.build
    assert isinstance(found.build.parts[0], DebianPart)
    assert found.build.parts[0].name == "default-jre-headless"


CAPSTANFILE_MISTAKES = [
    ("cmdline: /x\nbuild: make\n", r"Capstanfile:2:1: build: is not honoured \(nothing is run"),
    ("cmdline: /x\nrpm-base: {name: osv}\n", r"Capstanfile:2:1: rpm-base: is not honoured"),
    ("cmdline: /x\ncmdlin: /y\n", r"Capstanfile:2:1: cmdlin: is not a known key \(did you mean cmdline"),
    ("base: cloudius/osv\n", r"Capstanfile:1:1: has no cmdline"),
    ("base: cloudius/osv-mysql\ncmdline: /x\n", r"Capstanfile:1:7: base: 'cloudius/osv-mysql' is an image or package"),
    ("cmdline: --verbose /x\n", r"Capstanfile:1:10: cmdline: --verbose is an option of OSv's kernel"),
    ("cmdline: /hello.so\n", r"Capstanfile:1:10: cmdline: /hello.so is a shared object"),
    ("cmdline: /a; /b\n", r"Capstanfile:1:10: cmdline: an image runs one program"),
    ("cmdline: runscript /x\n", r"runscript is OSv's"),
    ("cmdline: ''\n", r"Capstanfile:1:10: cmdline: (is no command|.*empty)"),
    ("cmdline: /x\nfiles:\n  /x: gone\n", r"Capstanfile:3:7: files./x: there is no .*gone"),
    ("cmdline: /x\nfiles:\n  /: here\n", r"Capstanfile:3:3: files./: names the root"),
    ("cmdline: /x\nrootfs: gone\n", r"Capstanfile:2:9: rootfs: there is no directory"),
    ("cmdline: /x\n", r"Capstanfile.*brings no files"),
]


@pytest.mark.parametrize(("text", "said"), CAPSTANFILE_MISTAKES)
def test_a_mistake_of_a_capstanfile_has_its_place(tmp_path: Path, text: str, said: str) -> None:
    assert re.search(said, mistakes(tmp_path, {"Capstanfile": text}))


# ---- meta/run.yaml and meta/package.yaml ----

RUNTIMES = [
    ("runtime: native\nconfig_set: {a: {bootcmd: /bin/x --y}}", ("/bin/x", "--y")),
    (
        "runtime: node\nconfig_set: {a: {main: /s.js, node_args: [--trace], args: [1]}}",
        ("node", "--trace", "/s.js", "1"),
    ),
    ("runtime: python\nconfig_set: {a: {main: /s.py, python_args: -u, args: [x]}}", ("python3", "-u", "/s.py", "x")),
    (
        "runtime: java\nconfig_set:\n  a: {main: a.Main, classpath: [/a, /b.jar], jvm_args: [-Dx=1],"
        " xms: 64m, xmx: 1g, args: [z]}",
        (keys.JAVA, "-Xms64m", "-Xmx1g", "-Dx=1", "-cp", "/a:/b.jar", "a.Main", "z"),
    ),
    ("runtime: java\nconfig_set: {a: {main: /a.jar}}", (keys.JAVA, "-jar", "/a.jar")),
]


@pytest.mark.parametrize(("text", "command"), RUNTIMES)
def test_each_runtime_becomes_a_command(tmp_path: Path, text: str, command: tuple[str, ...]) -> None:
    assert service(tmp_path, {"meta/run.yaml": text}).command == command


def test_the_whole_of_a_package(tmp_path: Path) -> None:
    sets = "  one: {main: /a.js, env: {A: 1}}\n  two: {main: /b.js, env: {B: 2}}\n"
    run = f"runtime: node\nconfig_set:\n{sets}config_set_default: two\n"
    package = PACKAGE + "version: 1.2\ncreated: 2017-01-01\nrequire: [osv.bootstrap, node-4.4.5]\n"
    ignore = "# no\n/secret\n/build/*\n"
    files = {"meta/run.yaml": run, "meta/package.yaml": package, ".capstanignore": ignore, "b.js": ""}
    found = service(tmp_path, files)
    assert found.command == ("node", "/b.js")
    assert found.environment == {"B": "2"}
    assert found.labels["org.opencontainers.image.version"] == "1.2"
    assert found.labels["org.opencontainers.image.authors"] == "A. Person"
    assert found.build
    assert found.build.needs == ("node",)
    (part,) = found.build.parts
    assert isinstance(part, DirectoryPart)
    assert {"/meta", "/secret", "/build"} <= set(part.ignored)


RUN = "runtime: native\nconfig_set: {a: {bootcmd: /x}}\n"
RUN_MISTAKES = [
    ("config_set: {a: {bootcmd: /x}}", "", r"run.yaml:1:1: has no runtime"),
    ("runtime: ruby\nconfig_set: {a: {main: /x}}", "", r"run.yaml:1:10: runtime: 'ruby' is not known"),
    ("runtime: native\n", "", r"run.yaml:1:1: has no config_set"),
    (
        "runtime: native\nconfig_set: {a: {base: 'p:s', bootcmd: /x}}",
        "",
        r"run.yaml:2:18: config_set.a.base: is not honoured",
    ),
    ("runtime: native\nconfig_set: {a: {main: /x}}", "", r"run.yaml:2:18: config_set.a.main: is not a known key"),
    ("runtime: node\nconfig_set: {a: {main: /x, shell: true}}", "", r"run.yaml:2:28: .*shell: an interactive shell"),
    ("runtime: node\nconfig_set: {a: {args: [x]}}", "", r"run.yaml:2:14: config_set.a: says nothing that is run"),
    ("runtime: java\nconfig_set: {a: {main: A, xmx: lots}}", "", r"run.yaml:2:32: .*'lots' is no size of a heap"),
    (RUN + "config_set_default: b\n", "", r"run.yaml:3:21: config_set_default: there is no config set 'b'"),
    ("runtime: native\nconfig_set: {a: {bootcmd: /x}, b: {bootcmd: /y}}", "", r"several config sets"),
    (RUN, PACKAGE + "binary: {x: /x}\n", r"package.yaml:4:1: binary: is not honoured"),
    (RUN, PACKAGE + "platform: x86\n", r"package.yaml:4:1: platform: is not honoured"),
    (
        RUN,
        PACKAGE + "require: [osv.mysql]\n",
        r"package.yaml:4:11: require\[0\]: 'osv.mysql' is an image or package of OSv",
    ),
    ("runtime: node\nconfig_set: {a: {main: /x}}", PACKAGE + "require: [python-2.7]\n", r"is for another runtime"),
    (RUN, "name: x\ntitle: y\n", r"package.yaml:1:1: has no author"),
]


@pytest.mark.parametrize(("run", "package", "said"), RUN_MISTAKES)
def test_a_mistake_of_a_package_has_its_place(tmp_path: Path, run: str, package: str, said: str) -> None:
    files = {"meta/run.yaml": run} | ({"meta/package.yaml": package} if package else {})
    assert re.search(said, mistakes(tmp_path, files))


def test_every_key_is_either_honoured_or_refused() -> None:
    """The keys of capstan's core/template.go, core/package.go and runtime/."""
    known = {
        "Capstanfile": ("base rpm-base cmdline build files rootfs", keys.CAPSTANFILE),
        "package.yaml": ("name title author version require binary created platform", keys.PACKAGE),
        "run.yaml": ("runtime config_set config_set_default", keys.RUN),
        "run.yaml.config_set.NAME": ("env base bootcmd", keys.SETS["native"]),
    }
    for parent, (words, honoured) in known.items():
        for key in words.split():
            assert (key in honoured) != (f"{parent}.{key}" in keys.UNSUPPORTED), f"{parent}.{key}"


def test_an_app_file_comes_first(tmp_path: Path) -> None:
    root = project(tmp_path, {"Capstanfile": "cmdline: /x\n", "whit.yaml": "services: {}\n"})
    found = find_app_file(root)
    assert found
    assert found.name == "whit.yaml"
