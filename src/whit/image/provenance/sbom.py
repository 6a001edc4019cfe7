"""SBOM: the bill of an image as CycloneDX 1.5 JSON (cyclonedx.org/docs/1.5/json): the same bytes for the same image.

Components are packages, and parts that are none; each says where in the image its files are and how it came there.
Package URLs: github.com/package-url/purl-spec.
"""

from __future__ import annotations

import json
import uuid
from typing import Any
from urllib.parse import quote

from whit.image.provenance.bill import Bill, BilledPackage, Package

_NAMESPACE = uuid.UUID("6d7d4f3e-3b44-5a0c-9a53-1f5c6a1f0c11")


def document(
    name: str, digest: str, bill: Bill, distribution: str = "debian", kind: str = "container"
) -> dict[str, Any]:
    """The whole document, without a time: it would make equal ones differ."""
    places: dict[str, list[str]] = {}
    for file in bill.files:
        if file.kind != "directory":
            places.setdefault(file.package or file.part, []).append(f"/{file.path}")
    packages = [_package(one, places.get(one.package.id, []), distribution) for one in bill.packages]
    parts = [_part(part.id, part.kind, places[part.id]) for part in bill.parts if part.id in places]
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "serialNumber": f"urn:uuid:{uuid.uuid5(_NAMESPACE, digest)}",
        "version": 1,
        "metadata": {"component": {"type": kind, "bom-ref": digest, "name": name, "version": digest}},
        "components": [*packages, *parts],
        "dependencies": _dependencies(digest, bill),
    }


def encode(found: dict[str, Any]) -> str:
    return json.dumps(found, indent=1, sort_keys=True) + "\n"


def purl(package: Package, distribution: str = "debian") -> str:
    version = quote(package.version, safe="")
    if package.kind == "deb":
        architecture = f"?arch={package.architecture}" if package.architecture else ""
        return f"pkg:deb/{distribution}/{quote(package.name)}@{version}{architecture}"
    return f"pkg:{package.kind}/{quote(package.name)}@{version}"


def _package(billed: BilledPackage, files: list[str], distribution: str) -> dict[str, Any]:
    package = billed.package
    found: dict[str, Any] = {
        "type": "library",
        "bom-ref": package.id,
        "name": package.name,
        "version": package.version,
        "purl": purl(package, distribution),
        "properties": [{"name": "whit:part", "value": billed.part}],
    }
    if billed.via:
        found["properties"].append({"name": "whit:required-by", "value": billed.via})
    if package.sha256:
        found["hashes"] = [{"alg": "SHA-256", "content": package.sha256}]
    return found | _evidence(files)


def _part(identity: str, kind: str, files: list[str]) -> dict[str, Any]:
    return {"type": "file", "bom-ref": f"part:{identity}", "name": identity, "description": kind} | _evidence(files)


def _evidence(files: list[str]) -> dict[str, Any]:
    return {"evidence": {"occurrences": [{"location": path} for path in files]}} if files else {}


def _dependencies(digest: str, bill: Bill) -> list[dict[str, Any]]:
    present = {one.package.id for one in bill.packages}
    roots = sorted(one.package.id for one in bill.packages if not one.via)
    rows = [{"ref": digest, "dependsOn": roots}]
    for billed in bill.packages:
        rows.append({"ref": billed.package.id, "dependsOn": sorted(set(billed.package.needs) & present)})
    return rows
