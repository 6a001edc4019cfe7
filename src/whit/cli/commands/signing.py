"""whit image keygen, sign and verify: who vouches for an image, or for a file that was made of one; needs no agent."""

from __future__ import annotations

import getpass
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from whit.base.errors import Conflict, InputError, NotFound
from whit.cli.invocation import Invocation, command

if TYPE_CHECKING:
    from whit.image.store.images import ImageStore
    from whit.image.trust.keys import PrivateKey

PASSWORD = "COSIGN_PASSWORD"  # noqa: S105 - the variable's name

SubjectArgument = Annotated[
    str, typer.Argument(metavar="IMAGE|FILE", help="An image of the store, or a file; a directory as ./NAME.")
]
PasswordOption = Annotated[
    Path | None,
    typer.Option("--password-file", metavar="FILE", help=f"Its first line; else ${PASSWORD}, else asked for."),
]


def add(image: typer.Typer) -> None:
    for function in (keygen, sign, verify):
        command(image)(function)


def keygen(
    run: Invocation,
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="PREFIX", help="Writes PREFIX.key and PREFIX.pub.")
    ] = Path("cosign"),
    password_file: PasswordOption = None,
) -> None:
    """Make a key pair to sign images with, as cosign does. The private key is locked by a password.

    \b
    Example:
      whit image keygen -o release
    """
    from whit.image.trust import keys

    private, public = (output.with_name(f"{output.name}.{ending}") for ending in ("key", "pub"))
    for path in (private, public):
        if path.exists():
            raise Conflict(
                f"{path} is there already", hint="remove it, or choose another name with --output", code="key-exists"
            )
    key = keys.generate()
    sealed = keys.seal(key, _password(password_file, str(private), twice=True))
    with os.fdopen(os.open(private, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(sealed)
    public.write_bytes(keys.public_pem(key.public_key()))
    fingerprint = keys.fingerprint(key.public_key())
    if run.json:
        run.output.document({"private": str(private), "public": str(public), "fingerprint": fingerprint})
    else:
        run.output.line(f"{private} signs, {public} verifies ({fingerprint})")


def sign(
    run: Invocation,
    subject: SubjectArgument,
    key: Annotated[Path, typer.Option("--key", metavar="FILE", help="The private key, as whit or cosign made it.")],
    password_file: PasswordOption = None,
) -> None:
    """Vouch for an image. The signature is kept in the store, and goes where the image goes.

    The signature of a file is written beside it as FILE.sig; that of a directory covers what FILE.sha256 lists.

    \b
    Example:
      whit image sign shop-web --key release.key
      whit image sign ./disk.img --key release.key
    """
    from whit.image.trust import keys, signing

    private = _private(key, password_file)
    path = _path(subject)
    where = str(signing.sign_file(path, private)) if path else _store(run).sign(subject, private)
    fingerprint = keys.fingerprint(private.public_key())
    if run.json:
        run.output.document({"signed": subject, "signature": where, "fingerprint": fingerprint})
    else:
        run.output.line(f"{subject} signed by {fingerprint}: {where}")


def verify(
    run: Invocation,
    subject: SubjectArgument,
    key: Annotated[
        list[Path], typer.Option("--key", metavar="FILE", help="A public key; may be repeated, one is enough.")
    ],
) -> None:
    """Check that one of the keys vouches for an image or a file, and that nothing of it was changed.

    \b
    Example:
      whit image verify shop-web --key release.pub
    """
    from whit.image.trust import keys, signing

    wanted = signing.read_public_keys(key)
    path = _path(subject)
    found = signing.verify_file(path, wanted) if path else _store(run).verify(subject, wanted, deep=True)
    fingerprint = keys.fingerprint(found)
    if run.json:
        run.output.document({"verified": subject, "fingerprint": fingerprint})
    else:
        run.output.line(f"{subject} is signed by {fingerprint}")


def _path(subject: str) -> Path | None:
    """The file or directory that is meant; None for an image of the store. Raises NotFound."""
    if not subject.startswith((".", "/", "~")) and not Path(subject).is_file():
        return None
    path = Path(subject).expanduser()
    if not path.exists():
        raise NotFound(f"there is no file {subject}", hint="whit build --target disk -o FILE writes one")
    return path.resolve() if path.is_dir() else path


def _private(path: Path, password_file: Path | None) -> PrivateKey:
    from whit.base.errors import BadKey
    from whit.image.trust import keys

    try:
        pem = path.read_bytes()
    except OSError as error:
        raise BadKey(f"{path} cannot be read: {error.strerror}", hint="whit image keygen makes a pair") from error
    return keys.read_private(pem, lambda: _password(password_file, str(path)), str(path))


def _password(file: Path | None, key: str, *, twice: bool = False) -> bytes:
    """From a file, the environment or the person; never from the command line, which others can see."""
    if file is not None:
        try:
            return (file.read_bytes().splitlines() or [b""])[0]
        except OSError as error:
            raise InputError(
                f"{file} cannot be read: {error.strerror}", hint="it holds the password", code="password-unreadable"
            ) from error
    if PASSWORD in os.environ:
        return os.environ[PASSWORD].encode()
    if not sys.stdin.isatty():
        raise InputError(
            f"{key} asks for a password", hint=f"set {PASSWORD}, or give --password-file", code="password-missing"
        )
    password = getpass.getpass(f"Password of {key}: ")
    if twice and getpass.getpass("Again: ") != password:
        raise InputError("the two passwords differ", hint="nothing was written; try again", code="passwords-differ")
    return password.encode()


def _store(run: Invocation) -> ImageStore:
    from whit.cli import local

    return local.store(run.settings)
