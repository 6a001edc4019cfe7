"""Maglev tables: every backend has its share, and few entries change when one comes or goes."""

from __future__ import annotations

import time
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from whit.datapath import abi
from whit.mesh import maglev


def table(weights: dict[int, int]) -> list[int]:
    return maglev.table(weights, {number: f"10.77.0.{number}" for number in weights})


def test_the_size_is_the_datapaths_and_a_prime() -> None:
    assert maglev.SIZE == abi.MAGLEV_SIZE
    assert all(maglev.SIZE % divisor for divisor in range(2, 128))


@pytest.mark.parametrize("count", [1, 2, 3, 10, 100, 160])
def test_equal_backends_have_equal_shares(count: int) -> None:
    """Each turn gives one entry, so no two differ by more than one."""
    shares = Counter(table(dict.fromkeys(range(1, count + 1), 7)))
    assert sum(shares.values()) == maglev.SIZE
    assert len(shares) == count
    assert max(shares.values()) - min(shares.values()) <= 1


@given(st.dictionaries(st.integers(1, 200), st.integers(1, 100), min_size=1, max_size=8))
def test_shares_are_in_proportion_to_weights(weights: dict[int, int]) -> None:
    shares, total = Counter(table(weights)), sum(weights.values())
    for number, weight in weights.items():
        assert shares[number] == pytest.approx(maglev.SIZE * weight / total, rel=0.02, abs=2)


@pytest.mark.parametrize("count", [2, 10, 50])
def test_when_one_goes_few_entries_of_the_others_change(count: int) -> None:
    weights = dict.fromkeys(range(1, count + 1), 1)
    before = table(weights)
    del weights[1]
    after = table(weights)
    moved = sum(1 for old, new in zip(before, after, strict=True) if old not in (1, new))
    assert moved / maglev.SIZE < 0.05


def test_the_entries_follow_from_what_a_backend_is_not_from_its_number() -> None:
    one = maglev.table({1: 1, 2: 1}, {1: "a", 2: "b"})
    other = maglev.table({9: 1, 5: 1}, {9: "a", 5: "b"})
    assert [{1: "a", 2: "b"}[entry] for entry in one] == [{9: "a", 5: "b"}[entry] for entry in other]


@pytest.mark.parametrize("weights", [dict.fromkeys(range(1, 161), 1), {number: number for number in range(1, 161)}])
def test_a_table_takes_less_than_100_ms(weights: dict[int, int]) -> None:
    taken = []
    for _ in range(5):
        began = time.process_time()
        table(weights)
        taken.append(time.process_time() - began)
    assert min(taken) < 0.1
