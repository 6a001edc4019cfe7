"""Files that say what may be reached, of every kind, with the place of all that they say."""

from __future__ import annotations

from pathlib import Path

import pytest

from whit.base.errors import InputError
from whit.formats.policy.candidate import load_candidate

APP = """\
name: shop
services:
  web:
    image: i
    ports: ["8080:80"]
    uses:
      - db
      - {service: db, port: 5432}
  db: {image: i}
"""
POLICY = """\
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: a}
spec:
  podSelector: {}
  ingress:
    - from: [{podSelector: {}}]
"""


def test_app_files_and_policies_are_told_apart(tmp_path: Path) -> None:
    app, policies = tmp_path / "whit.yaml", tmp_path / "policies.yaml"
    app.write_text(APP)
    policies.write_text(f"---\n---\n{POLICY}")
    found = load_candidate([tmp_path, policies], namespace="shop")
    assert [one.name for one in found.apps] == ["shop"]
    assert [(one.app, one.name, one.origin) for one in found.policies] == [("shop", "a", f"{policies}:3")]
    assert found.policies[0].rules[0].origin == f"{policies}:9"
    assert found.places == {
        "shop/web": f"{app}:3",
        "shop/web.ports[0]": f"{app}:5",
        "shop/web.uses[0]": f"{app}:7",
        "shop/web.uses[1]": f"{app}:8",
        "shop/db": f"{app}:9",
    }


def test_the_same_app_twice_is_refused(tmp_path: Path) -> None:
    (tmp_path / "whit.yaml").write_text(APP)
    (tmp_path / "other.yaml").write_text(APP)
    with pytest.raises(InputError, match="the app shop was read already"):
        load_candidate([tmp_path, tmp_path / "other.yaml"])


def test_what_cannot_be_read_is_told_as_ever(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        load_candidate([tmp_path / "none.yaml"])
    (tmp_path / "bad.yaml").write_text("kind: [\n")
    with pytest.raises(InputError, match=r"bad\.yaml:2:1: not YAML"):
        load_candidate([tmp_path / "bad.yaml"])
