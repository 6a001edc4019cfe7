"""The shop as its customers see it, and its orders as PostgreSQL itself tells them."""

from __future__ import annotations

import json
import urllib.request
from typing import Any

from support.whit import Whit


def url(shop: Whit) -> str:
    return f"http://127.0.0.1:{shop.environment['SHOP_PORT']}"


def call(shop: Whit, path: str, body: dict[str, Any] | None = None) -> Any:
    """What the shop answers; with a body it is posted."""
    data = json.dumps(body).encode() if body is not None else None
    request = urllib.request.Request(f"{url(shop)}{path}", data, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=30) as reply:
        return json.load(reply)


def query(shop: Whit, text: str) -> str:
    """Asked of PostgreSQL in its own instance, wherever that runs."""
    psql = ["/usr/lib/postgresql/15/bin/psql", "-h", "127.0.0.1", "-U", "postgres", "-Atc", text, "postgres"]
    return shop("exec", "-e", "PGPASSWORD=shop", "db", *psql).stdout.strip()


def rows(shop: Whit) -> int:
    return int(query(shop, "SELECT count(*) FROM orders"))
