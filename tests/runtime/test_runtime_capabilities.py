from __future__ import annotations

import pytest

from whit.base.errors import InputError
from whit.runtime.bundle.capabilities import DEFAULT, KNOWN, effective_set


def test_the_default() -> None:
    assert effective_set([], []) == DEFAULT
    assert len(DEFAULT) == 9
    assert set(DEFAULT) <= set(KNOWN)
    assert len(KNOWN) == 41


@pytest.mark.parametrize(
    ("add", "drop", "wanted"),
    [
        (["NET_ADMIN"], ["ALL"], ("CAP_NET_ADMIN",)),
        (["cap_net_admin", "CAP_CHOWN"], ["all"], ("CAP_CHOWN", "CAP_NET_ADMIN")),
        ([], ["ALL"], ()),
        (["ALL"], [], KNOWN),
        (["ALL"], ["SYS_ADMIN"], tuple(name for name in KNOWN if name != "CAP_SYS_ADMIN")),
        ([], ["CHOWN", "KILL"], tuple(name for name in DEFAULT if name not in ("CAP_CHOWN", "CAP_KILL"))),
    ],
)
def test_what_is_added_and_dropped(add: list[str], drop: list[str], wanted: tuple[str, ...]) -> None:
    assert effective_set(add, drop) == wanted


@pytest.mark.parametrize(("add", "drop", "key"), [(["CAP_FLY"], [], "cap_add"), ([], ["FLY"], "cap_drop")])
def test_unknown_names(add: list[str], drop: list[str], key: str) -> None:
    with pytest.raises(InputError, match="is no capability") as caught:
        effective_set(add, drop)
    assert caught.value.place.key == key
