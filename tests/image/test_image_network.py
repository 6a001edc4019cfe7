"""Real packages from the host's mirrors: what they become runs, is twice the same, and nothing tampered gets in."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import http.server
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from email.utils import formatdate
from functools import partial
from pathlib import Path

import pytest
from support.images import need, overlay

from whit.base.errors import DigestMismatch, InputError, NotFound, Permanent, Unreachable
from whit.base.settings import Settings
from whit.image.oci import manifest
from whit.image.sandbox import confine
from whit.image.sandbox.processes import module_environment
from whit.image.sources import debian
from whit.image.store.images import ImageStore
from whit.model.build import BuildSpec, DebianPart, DirectoryPart, PythonPart
from whit.model.image import Image
from whit.model.progress import Report
from whit.tools import apt, apt_sources

pytestmark = [pytest.mark.network, pytest.mark.root, pytest.mark.slow]

RUNS = {
    ("nginx",): (["/usr/sbin/nginx", "-v"], "nginx/"),
    ("redis-server",): (["/usr/bin/redis-server", "--version"], "Redis server v="),
    ("postgresql", "dash"): (["/usr/lib/postgresql/15/bin/postgres", "--version"], "postgres (PostgreSQL) 15"),
    ("memcached",): (["/usr/bin/memcached", "-V"], "memcached 1."),
    ("haproxy",): (["/usr/sbin/haproxy", "-v"], "HAProxy version 2."),
}


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Package lists and packages, fetched once for this module."""
    return tmp_path_factory.mktemp("packages")


@pytest.fixture
def store(settings: Settings, packages: Path) -> Iterator[ImageStore]:
    """A store that starts with what was fetched before."""
    cache = settings.state_dir / "builds" / "apt"
    if any(packages.iterdir()):
        shutil.copytree(packages, cache, dirs_exist_ok=True)
        subprocess.run(["chown", "-R", f"{confine.DEBIAN_UID}:{confine.DEBIAN_UID}", cache], check=True)
    yield ImageStore(settings)
    if cache.exists():
        shutil.copytree(cache, packages, dirs_exist_ok=True)


def debian_parts(*names: str) -> BuildSpec:
    return BuildSpec(parts=tuple(DebianPart(name=name) for name in names))


def run_in(image: Image, tmp_path: Path, argv: list[str]) -> str:
    """Run a program of the image in its merged tree; both outputs."""
    with overlay(image.layers, tmp_path / "merged") as root:
        env = {"PATH": image.config.env["PATH"]}
        ended = subprocess.run(["/usr/sbin/chroot", root, *argv], capture_output=True, text=True, env=env, timeout=60)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout + ended.stderr


@pytest.mark.parametrize("names", RUNS, ids=lambda names: names[0])
async def test_server_runs(
    names: tuple[str, ...],
    store: ImageStore,
    tmp_path: Path,
    report: Report,
    record_number: Callable[[str, object], None],
) -> None:
    start = time.monotonic()
    image = await store.build(names[0], debian_parts(*names), report)
    record_number(f"build debian:{names[0]}", f"{image.size / 1e6:.0f} MB in {time.monotonic() - start:.1f} s")
    argv, expected = RUNS[names]
    assert expected in run_in(image, tmp_path, argv)
    assert list((store.layout.root.parent / "builds" / "work").iterdir()) == []


async def test_what_scripts_would_have_done(store: ImageStore, report: Report, steps: list[str]) -> None:
    image = await store.build("db", debian_parts("postgresql", "dash", "ca-certificates", "mawk"), report)
    root = image.layers[0]
    assert (root / "usr/bin/sh").readlink() == Path("dash")
    assert (root / "bin").readlink() == Path("usr/bin")
    assert (root / "usr/bin/awk").readlink() == Path("mawk")
    assert "postgres:*:101:101:" in (root / "etc/passwd").read_text()
    state = (root / "var/lib/postgresql").stat()
    assert (state.st_uid, state.st_gid) == (101, 101)
    assert (root / "run/postgresql").stat().st_mode & 0o7777 == 0o2775
    assert (root / "tmp").stat().st_mode & 0o7777 == 0o1777
    assert (root / "etc/ssl/certs/ca-certificates.crt").read_text().count("BEGIN CERTIFICATE") > 100
    assert image.config.env["SSL_CERT_FILE"] == "/etc/ssl/certs/ca-certificates.crt"
    assert "hosts: files dns" in (root / "etc/nsswitch.conf").read_text()
    assert not (root / "usr/sbin/adduser").exists()
    perl = (root / "usr/bin/perl").stat()
    assert perl.st_nlink == 2
    assert any("maintainer scripts were not run" in step for step in steps)


async def test_the_same_packages_give_the_same_image(
    store: ImageStore,
    settings: Settings,
    packages: Path,
    tmp_path: Path,
    report: Report,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    first = await store.build("a", debian_parts("nginx", "python3-minimal"), report)
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    monkeypatch.setenv("PYTHONHASHSEED", "7")
    shutil.copytree(settings.state_dir / "builds" / "apt", packages, dirs_exist_ok=True)
    elsewhere = Settings(id="imgtest", run_root=tmp_path / "run", state_root=tmp_path / "elsewhere")
    second = await ImageStore(elsewhere).build("b", debian_parts("python3-minimal", "nginx"), report)
    assert second.digest == first.digest


async def test_unknown_package_and_version(store: ImageStore, report: Report) -> None:
    with pytest.raises(InputError, match="no-such-package-at-all") as caught:
        await store.build("x", debian_parts("no-such-package-at-all"), report)
    assert caught.value.code == "debian-unknown"
    with pytest.raises(InputError, match=r"0\.0"):
        await store.build("x", BuildSpec(parts=(DebianPart(name="nginx", version="0.0"),)), report)


async def test_python_project(
    store: ImageStore, tmp_path: Path, report: Report, record_number: Callable[[str, object], None]
) -> None:
    app = tmp_path / "app"
    app.mkdir(mode=0o700)
    (app / "requirements.txt").write_text("fastapi\nuvicorn\n")
    (app / "shop.py").write_text("import fastapi\napp = fastapi.FastAPI()\n")
    (app / "shop.py").chmod(0o600)
    start = time.monotonic()
    image = await store.build("api", BuildSpec(parts=(PythonPart(path=app),)), report)
    record_number("build a FastAPI service", f"{image.size / 1e6:.0f} MB in {time.monotonic() - start:.1f} s")
    assert image.config.working_dir == "/app"
    assert (image.layers[-1] / "app" / "shop.py").stat().st_mode & 0o777 == 0o644
    script = (
        "import sys; sys.path.insert(0, '/app'); import shop, uvicorn, ssl, sqlite3;"
        "print(shop.__cached__, fastapi.__file__ if 'fastapi' in dir() else shop.fastapi.__file__)"
    )
    said = run_in(image, tmp_path, ["/usr/bin/python3", "-v", "-c", script])
    assert "/usr/local/lib/python3.11/dist-packages/fastapi/__init__.py" in said
    # A cache is quoted in this message, a source that had to be compiled is not (importlib._bootstrap_external).
    assert "code object from '/app/__pycache__/shop" in said
    assert "code object from /" not in said
    (app / "shop.py").write_text("import fastapi\napp = fastapi.FastAPI(title='other')\n")
    changed = await store.build("api", BuildSpec(parts=(PythonPart(path=app),)), report)
    assert changed.layers[:-1] == image.layers[:-1]
    assert changed.layers[-1] != image.layers[-1]


async def test_packaged_project(store: ImageStore, tmp_path: Path, report: Report) -> None:
    app = tmp_path / "hello"
    (app / "hello").mkdir(parents=True)
    (app / "hello" / "__init__.py").write_text("import idna\ndef main():\n    print('hello', idna.__name__)\n")
    (app / "pyproject.toml").write_text(
        '[build-system]\nrequires = ["hatchling"]\nbuild-backend = "hatchling.build"\n'
        '[project]\nname = "hello"\nversion = "1"\ndependencies = ["idna"]\n[project.scripts]\nhello = "hello:main"\n'
    )
    image = await store.build("hello", BuildSpec(parts=(PythonPart(path=app),)), report)
    assert image.config.command == ("hello",)
    script = next(layer / "usr/local/bin/hello" for layer in image.layers if (layer / "usr/local/bin/hello").exists())
    assert script.read_text().startswith("#!/usr/bin/python3\n")
    assert run_in(image, tmp_path, ["hello"]) == "hello idna\n"
    assert not list(image.layers[-1].rglob("direct_url.json"))


async def test_wrong_hash_of_a_requirement(store: ImageStore, tmp_path: Path, report: Report) -> None:
    (tmp_path / "requirements.txt").write_text(f"idna==3.10 --hash=sha256:{'0' * 64}\n")
    with pytest.raises(InputError, match="requirements cannot be installed"):
        await store.build("x", BuildSpec(parts=(PythonPart(path=tmp_path),)), report)


async def test_directory_lands_on_merged_usr(store: ImageStore, tmp_path: Path, report: Report) -> None:
    (tmp_path / "top" / "bin").mkdir(parents=True)
    (tmp_path / "top" / "bin" / "hello").write_text("#!/bin/sh\necho hello\n")
    (tmp_path / "top" / "bin" / "hello").chmod(0o755)
    parts = (DebianPart(name="dash"), DirectoryPart(path=tmp_path / "top"))
    image = await store.build("x", BuildSpec(parts=parts), report)
    assert run_in(image, tmp_path, ["/bin/hello"]) == "hello\n"


async def test_worker_is_another_user_without_rights(store: ImageStore, tmp_path: Path, report: Report) -> None:
    """The build backend of a project is code of the app: it sees neither the host's secrets nor other builds."""
    app = tmp_path / "spy"
    app.mkdir()
    (app / "pyproject.toml").write_text('[build-system]\nrequires = []\nbuild-backend = "spy"\nbackend-path = ["."]\n')
    (app / "spy.py").write_text(
        "import os, pathlib\n"
        "status = pathlib.Path('/proc/self/status').read_text()\n"
        "wanted = ('Uid', 'Groups', 'CapEff', 'CapPrm', 'NoNewPrivs')\n"
        "lines = [line for line in status.splitlines() if line.startswith(wanted)]\n"
        "try: lines.append(open('/etc/shadow').readline())\n"
        "except PermissionError: lines.append('no shadow')\n"
        "try: lines.append(str(os.listdir('/root')))\n"
        "except PermissionError: lines.append('no root')\n"
        "lines.append('here ' + ','.join(sorted(os.listdir('/var/tmp'))))\n"
        "raise SystemExit('error: ' + ' | '.join(lines))\n"
    )
    with pytest.raises(InputError) as caught:
        await store.build("x", BuildSpec(parts=(PythonPart(path=app),)), report)
    said = " ".join(str(caught.value).split())
    assert f"Uid: {confine.FIRST_UID} {confine.FIRST_UID}" in said or f"Uid: {confine.FIRST_UID + 1}" in said
    assert "CapEff: 0000000000000000" in said
    assert "CapPrm: 0000000000000000" in said
    assert "NoNewPrivs: 1" in said
    assert "no shadow | no root" in said
    assert "shared" in said


async def test_killed_build_leaves_nothing(store: ImageStore, settings: Settings, report: Report) -> None:
    task = asyncio.create_task(store.build("x", debian_parts("haproxy"), report))
    await asyncio.sleep(0.6)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert list((settings.state_dir / "builds" / "work").iterdir()) == []
    assert not (await store.build("x", debian_parts("haproxy"), report)).cached


async def test_agent_killed_while_building_leaves_no_process(settings: Settings) -> None:
    script = (
        "import asyncio, pathlib\n"
        "from whit.base.settings import Settings\n"
        "from whit.image.store.images import ImageStore\n"
        "from whit.model.build import BuildSpec, DebianPart\n"
        f"store = ImageStore(Settings(id={settings.id!r}, state_root=pathlib.Path({str(settings.state_root)!r})))\n"
        "spec = BuildSpec(parts=(DebianPart(name='nginx'),))\n"
        "asyncio.run(store.build('x', spec, lambda progress: print(progress.step, flush=True)))\n"
    )
    env = os.environ | module_environment()
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, env=env) as agent:
        assert agent.stdout is not None
        assert agent.stdout.readline()
        until = time.monotonic() + 60
        while not working(settings):
            assert agent.poll() is None, "it was over too soon"
            assert time.monotonic() < until
        agent.kill()
    until = time.monotonic() + 60
    while working(settings) and time.monotonic() < until:
        time.sleep(0.05)
    assert working(settings) == []
    ImageStore(settings).prepare()
    assert list((settings.state_dir / "builds" / "work").iterdir()) == []


def working(settings: Settings) -> list[str]:
    """Command lines of this store's workers."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            line = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
            if "whit.image.building.worker" in line and str(settings.state_dir) in line:
                found.append(line)
    return found


# A mirror of one's own, to be tampered with.


@pytest.fixture
def mirror(tmp_path: Path) -> Iterator[tuple[str, Path, Path]]:
    """A signed archive with one package on loopback: its address, its directory and its public key."""
    need("gpg")
    root, home = tmp_path / "mirror", tmp_path / "gnupg"
    build = tmp_path / "pkg"
    (build / "DEBIAN").mkdir(parents=True)
    home.mkdir(mode=0o700)
    (build / "DEBIAN" / "control").write_text(
        "Package: sample\nVersion: 1\nArchitecture: all\nMaintainer: a <a@b.example>\nDescription: sample\n"
    )
    (root / "pool").mkdir(parents=True)
    subprocess.run(["dpkg-deb", "--root-owner-group", "-b", build, root / "pool/sample_1_all.deb"], check=True)
    gpg = ["gpg", "--homedir", home, "--batch", "--passphrase", "", "--pinentry-mode", "loopback"]
    subprocess.run([*gpg, "--quick-generate-key", "test", "rsa2048"], check=True, capture_output=True)
    key = tmp_path / "key.gpg"
    key.write_bytes(subprocess.run([*gpg, "--export"], check=True, capture_output=True).stdout)
    publish(root, gpg)
    handler = partial(http.server.SimpleHTTPRequestHandler, directory=str(root))
    handler.func.log_message = lambda *_: None  # type: ignore[attr-defined]
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", root, key
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
        subprocess.run(["gpgconf", "--homedir", home, "--kill", "all"], check=False)


def publish(root: Path, gpg: list[object], *, again: bool = False, until: str = "") -> None:
    """`again` in the place of what was signed before; `until` when the lists are good."""
    if again:
        (root / "dists/bookworm/InRelease").unlink()
    lists = root / "dists/bookworm/main" / f"binary-{manifest.architecture()}"
    lists.mkdir(parents=True, exist_ok=True)
    deb = (root / "pool/sample_1_all.deb").read_bytes()
    packages = (
        "Package: sample\nVersion: 1\nArchitecture: all\nMaintainer: a <a@b.example>\nDescription: sample\n"
        f"Filename: pool/sample_1_all.deb\nSize: {len(deb)}\nSHA256: {hashlib.sha256(deb).hexdigest()}\n"
    ).encode()
    (lists / "Packages").write_bytes(packages)
    name = f"main/binary-{manifest.architecture()}/Packages"
    (root / "dists/bookworm/Release").write_text(
        "Codename: bookworm\nSuite: bookworm\nComponents: main\n"
        f"Architectures: {manifest.architecture()}\nDate: {formatdate(usegmt=True)}\n"
        f"{f'Valid-Until: {until}' + chr(10) if until else ''}"
        f"SHA256:\n {hashlib.sha256(packages).hexdigest()} {len(packages)} {name}\n"
    )
    argv = [*gpg, "--clearsign", "-o", root / "dists/bookworm/InRelease", root / "dists/bookworm/Release"]
    subprocess.run(argv, check=True, capture_output=True)


def entry(address: str, key: Path) -> str:
    return f"Types: deb\nURIs: {address}\nSuites: bookworm\nComponents: main\nSigned-By: {key}\n"


async def fetched(tmp_path: Path, text: str) -> bytes:
    root = apt.Root(tmp_path / "apt", tmp_path / "apt-private", manifest.architecture())
    await root.prepare(text, "", debian.SCRIPTS_ONLY)
    await root.update(0)
    packages = (await root.resolve(["sample"])).packages
    await root.download(packages)
    return root.path(packages[0]).read_bytes()


async def test_signed_mirror(mirror: tuple[str, Path, Path], tmp_path: Path) -> None:
    address, root, key = mirror
    data = await fetched(tmp_path, entry(address, key))
    assert hashlib.sha256(data).digest() == hashlib.sha256((root / "pool/sample_1_all.deb").read_bytes()).digest()


async def test_lists_of_other_sources_stay(mirror: tuple[str, Path, Path], tmp_path: Path) -> None:
    """As those for another architecture: they are fetched for the same root, and are young enough to be used again."""
    address, _, key = mirror
    first, second = (entry(one, key) for one in (address, address.replace("127.0.0.1", "localhost")))
    for text in (first, second, first):
        root = apt.Root(tmp_path / "apt", tmp_path / "apt-private", manifest.architecture())
        await root.prepare(text, "", debian.SCRIPTS_ONLY)
        await root.update(3600)
        assert [package.name for package in (await root.resolve(["sample"])).packages] == ["sample"]


async def test_tampered_package_is_refused(mirror: tuple[str, Path, Path], tmp_path: Path) -> None:
    address, root, key = mirror
    deb = root / "pool/sample_1_all.deb"
    data = bytearray(deb.read_bytes())
    data[-1] ^= 1
    deb.write_bytes(bytes(data))
    with pytest.raises(Permanent, match="not what the signed lists say") as caught:
        await fetched(tmp_path, entry(address, key))
    assert caught.value.code == "debian-unfetched"
    assert not list((tmp_path / "apt" / "archives").glob("*.deb"))


async def test_package_that_is_not_the_locked_one_is_refused(mirror: tuple[str, Path, Path], tmp_path: Path) -> None:
    """As the archive has it, and as its lists say, but not as the lock file does."""
    address, _, key = mirror
    root = apt.Root(tmp_path / "apt", tmp_path / "apt-private", manifest.architecture())
    await root.prepare(entry(address, key), "", debian.SCRIPTS_ONLY)
    await root.update(0)
    with pytest.raises(DigestMismatch) as caught:
        await root.download([apt.Package("sample", "1", "all", "0" * 64, 0, "")])
    assert caught.value.code == "debian-digest"
    assert not list((tmp_path / "apt" / "archives").glob("*.deb"))


async def test_tampered_list_is_refused(mirror: tuple[str, Path, Path], tmp_path: Path) -> None:
    address, root, key = mirror
    lists = root / "dists/bookworm/main" / f"binary-{manifest.architecture()}" / "Packages"
    lists.write_text(lists.read_text().replace("sample", "simple"))
    with pytest.raises(Permanent, match="cannot be fetched, or are not what was signed") as caught:
        await fetched(tmp_path, entry(address, key))
    assert caught.value.code == "repository-untrusted"


async def test_tampered_release_is_refused(mirror: tuple[str, Path, Path], tmp_path: Path) -> None:
    address, root, key = mirror
    release = root / "dists/bookworm/InRelease"
    release.write_text(release.read_text().replace("Suite: bookworm", "Suite: bookw0rm"))
    assert await refused(tmp_path, entry(address, key)) == "repository-not-signed"


async def refused(tmp_path: Path, text: str) -> str:
    """The code; the error names the repository and says what to do, and nothing of it is kept."""
    with pytest.raises(Permanent) as caught:
        await fetched(tmp_path, text)
    assert "http://127.0.0.1" in caught.value.message
    assert caught.value.hint
    assert not [path for path in (tmp_path / "apt" / "lists").iterdir() if path.is_file() and path.name != "lock"]
    return caught.value.code


async def test_foreign_repository_without_its_key(mirror: tuple[str, Path, Path], tmp_path: Path) -> None:
    """Whether another key is named, one that is not there, or none, so that Debian's own count; or it is not signed."""
    address, root, key = mirror
    other_key = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
    unnamed = entry(address, key).replace(f"Signed-By: {key}\n", "")
    for text in (entry(address, other_key), entry(address, tmp_path / "gone.gpg"), unnamed):
        assert await refused(tmp_path, text) == "repository-key-missing"
    (root / "dists/bookworm/InRelease").unlink()
    assert await refused(tmp_path, entry(address, key)) == "repository-not-signed"


async def test_foreign_repository_whose_key_has_expired(mirror: tuple[str, Path, Path], tmp_path: Path) -> None:
    """It was good when the lists were signed."""
    address, _, key = mirror
    gpg: list[object] = ["gpg", "--homedir", tmp_path / "gnupg", "--batch", "--passphrase", ""]
    gpg += ["--pinentry-mode", "loopback"]
    listed = subprocess.run([*gpg, "--list-keys", "--with-colons"], check=True, capture_output=True, text=True).stdout
    print_of_key = next(line.split(":")[9] for line in listed.splitlines() if line.startswith("fpr"))
    subprocess.run([*gpg, "--quick-set-expire", print_of_key, "seconds=1"], check=True, capture_output=True)
    key.write_bytes(subprocess.run([*gpg, "--export"], check=True, capture_output=True).stdout)
    await asyncio.sleep(2)
    assert await refused(tmp_path, entry(address, key)) == "repository-key-expired"


async def test_lists_that_are_too_old(mirror: tuple[str, Path, Path], tmp_path: Path) -> None:
    address, root, key = mirror
    gpg: list[object] = ["gpg", "--homedir", tmp_path / "gnupg", "--batch", "--passphrase", ""]
    gpg += ["--pinentry-mode", "loopback"]
    publish(root, gpg, again=True, until="Thu, 01 Jan 2015 00:00:00 UTC")
    assert await refused(tmp_path, f"{entry(address, key)}Check-Valid-Until: yes\n") == "repository-expired"


async def test_host_sources_are_those_of_its_release() -> None:
    text = apt_sources.host_sources(apt_sources.release(), manifest.architecture())
    assert apt_sources.release() in text


# A registry on loopback.


async def test_pull_from_a_registry(registry: str, store: ImageStore, tmp_path: Path, report: Report) -> None:
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "index").write_text("hello")
    built = await store.build("web", BuildSpec(parts=(DirectoryPart(path=tmp_path / "site"),)), report)
    argv = [
        "skopeo",
        "copy",
        "-q",
        "--dest-tls-verify=false",
        f"oci:{store.layout.root}:web",
        f"docker://{registry}/me/web:1",
    ]
    subprocess.run(argv, check=True)
    second = ImageStore(Settings(id="imgtest", run_root=tmp_path / "run", state_root=tmp_path / "state2"))
    pulled = await second.obtain(f"{registry}/me/web:1", report)
    assert not pulled.cached
    assert (pulled.layers[0] / "index").read_text() == "hello"
    assert pulled.layers[0].name == built.layers[0].name
    assert (await second.obtain(f"{registry}/me/web:1", report)).cached
    with pytest.raises(NotFound, match="me/nothing"):
        await second.obtain(f"{registry}/me/nothing", report)


async def test_registry_that_does_not_answer(store: ImageStore, report: Report) -> None:
    with pytest.raises(Unreachable):
        await store.obtain("127.0.0.1:1/a/b", report)
