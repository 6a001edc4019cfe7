"""Keys: an offline ECDSA P-256 pair in the form that cosign writes and reads; what is signed is signing.py's.

A private key is PKCS #8 in a box: scrypt (RFC 7914) of the password, NaCl's secretbox, as JSON in PEM
(go-securesystemslib, encrypted/encrypted.go). Plain PEM keys of EC, as openssl writes them, are read too.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import secrets
from collections.abc import Callable
from typing import Any

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed
from nacl.exceptions import CryptoError
from nacl.secret import SecretBox

from whit.base.errors import BadKey, WrongPassword

PrivateKey = ec.EllipticCurvePrivateKey
PublicKey = ec.EllipticCurvePublicKey

_BOXED = ("ENCRYPTED SIGSTORE PRIVATE KEY", "ENCRYPTED COSIGN PRIVATE KEY")
_SCRYPT = {"N": 65536, "r": 8, "p": 1}
_KNOWN_N = (32768, 65536)
"""What cosign has used. Others are refused, or a forged key could ask for all memory."""
_MEMORY = 128 << 20
_SALT = 32
_COLUMNS = 64


def generate() -> PrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def seal(key: PrivateKey, password: bytes) -> bytes:
    """The private key as PEM that only the password opens."""
    plain = key.private_bytes(
        serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    salt, nonce = secrets.token_bytes(_SALT), secrets.token_bytes(SecretBox.NONCE_SIZE)
    box = SecretBox(_derived(password, salt, _SCRYPT["N"]))
    document = {
        "kdf": {"name": "scrypt", "params": _SCRYPT, "salt": _text(salt)},
        "cipher": {"name": "nacl/secretbox", "nonce": _text(nonce)},
        "ciphertext": _text(box.encrypt(plain, nonce).ciphertext),
    }
    body = _text(json.dumps(document, separators=(",", ":")).encode())
    lines = [body[start : start + _COLUMNS] for start in range(0, len(body), _COLUMNS)]
    return "\n".join([f"-----BEGIN {_BOXED[0]}-----", *lines, f"-----END {_BOXED[0]}-----", ""]).encode()


def read_private(pem: bytes, password: Callable[[], bytes], name: str) -> PrivateKey:
    """The private key in a file of this name; the password is asked for only if there is a lock.

    Raises:
        BadKey: it is no private key of the curve P-256.
        WrongPassword: the password does not open it.
    """
    label, body = _armour(pem, name)
    if label in _BOXED:
        return _private(_opened(body, password(), name), None, name)
    return _private(pem, password, name)


def read_public(pem: bytes, name: str) -> PublicKey:
    """Raises BadKey unless it is a public key of the curve P-256."""
    try:
        key = serialization.load_pem_public_key(pem)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise BadKey(f"{name} is not a public key in PEM", hint="whit image keygen makes a pair") from error
    if not isinstance(key, PublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise BadKey(f"{name} is not an ECDSA key of the curve P-256", hint="whit image keygen makes a pair")
    return key


def public_pem(key: PublicKey) -> bytes:
    return key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)


def fingerprint(key: PublicKey) -> str:
    """The first digits of the digest of the key's DER form, by which people tell keys apart."""
    der = key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(der).hexdigest()[:12]


def sign(key: PrivateKey, digest: bytes) -> str:
    """The signature of what has this SHA-256, in base64; the same each time (RFC 6979)."""
    return _text(key.sign(digest, ec.ECDSA(Prehashed(hashes.SHA256()), deterministic_signing=True)))


def holds(key: PublicKey, digest: bytes, signature: str) -> bool:
    """Whether the signature is this key's, of what has this SHA-256."""
    try:
        key.verify(base64.b64decode(signature, validate=True), digest, ec.ECDSA(Prehashed(hashes.SHA256())))
    except (InvalidSignature, binascii.Error, ValueError):
        return False
    return True


def _armour(pem: bytes, name: str) -> tuple[str, bytes]:
    """What the first line of PEM says, and what the lines after it encode."""
    lines = pem.decode("ascii", "replace").split("\n")
    first = lines[0].strip()
    if not (first.startswith("-----BEGIN ") and first.endswith("-----")):
        raise BadKey(f"{name} is not a private key in PEM", hint="whit image keygen makes a pair")
    body = "".join(line.strip() for line in lines[1:] if line.strip() and not line.startswith("-----"))
    try:
        return first.removeprefix("-----BEGIN ").removesuffix("-----"), base64.b64decode(body)
    except ValueError:
        return "", b""


def _opened(body: bytes, password: bytes, name: str) -> bytes:
    try:
        document: dict[str, Any] = json.loads(body)
        params = document["kdf"]["params"]
        known = (document["kdf"]["name"], document["cipher"]["name"]) == ("scrypt", "nacl/secretbox")
        if not known or params["N"] not in _KNOWN_N or (params["r"], params["p"]) != (8, 1):
            raise BadKey(f"{name} is locked in a way that cosign does not use", hint="whit image keygen makes a pair")
        salt, nonce, box = (
            base64.b64decode(text)
            for text in (document["kdf"]["salt"], document["cipher"]["nonce"], document["ciphertext"])
        )
        return SecretBox(_derived(password, salt, params["N"])).decrypt(box, nonce)
    except CryptoError as error:
        raise WrongPassword(f"the password does not open {name}", hint="give it in COSIGN_PASSWORD") from error
    except (ValueError, KeyError, TypeError) as error:
        raise BadKey(f"{name} is damaged: {error!r}", hint="whit image keygen makes a pair") from error


def _derived(password: bytes, salt: bytes, cost: int) -> bytes:
    return hashlib.scrypt(password, salt=salt, n=cost, r=8, p=1, maxmem=_MEMORY, dklen=SecretBox.KEY_SIZE)


def _private(data: bytes, password: Callable[[], bytes] | None, name: str) -> PrivateKey:
    try:
        if password is None:
            key = serialization.load_der_private_key(data, None)
        elif b"ENCRYPTED" in data:
            key = serialization.load_pem_private_key(data, password())
        else:
            key = serialization.load_pem_private_key(data, None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        if password is not None and b"ENCRYPTED" in data:
            raise WrongPassword(f"the password does not open {name}", hint="give it in COSIGN_PASSWORD") from error
        raise BadKey(f"{name} is not a private key in PEM", hint="whit image keygen makes a pair") from error
    if not isinstance(key, PrivateKey) or not isinstance(key.curve, ec.SECP256R1):
        raise BadKey(f"{name} is not an ECDSA key of the curve P-256", hint="whit image keygen makes a pair")
    return key


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()
