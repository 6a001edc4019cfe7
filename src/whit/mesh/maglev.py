"""Maglev tables: which backend each value of a hash leads to (Eisenbud et al., NSDI 2016, section 3.4).

Backends get shares of the table by their weights, and when one comes or goes few entries of the others change. Pure,
and some 30 ms long: not for the event loop.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

SIZE = 16381
"""MAGLEV_SIZE of bpf/include/abi.h: a prime."""


def table(weights: Mapping[int, int], names: Mapping[int, str], size: int = SIZE) -> list[int]:
    """The numbers of backends, one for each entry.

    Args:
        weights: By number of the backend; not empty, all positive.
        names: What a backend is, by number: the order of its preferences follows from it, so that a backend keeps its
            entries whatever number it has.
        size: A prime, much larger than there are backends.
    """
    order = sorted(weights, key=lambda number: names[number])
    turns = _turns([weights[number] for number in order])
    preferences = [_preference(names[number], size) for number in order]
    positions, skips = ([one[at] for one in preferences] for at in (0, 1))
    entries = [-1] * size
    left = size
    while True:
        for index in turns:
            position, skip = positions[index], skips[index]
            while entries[position] >= 0:
                position += skip
                if position >= size:
                    position -= size
            entries[position] = order[index]
            positions[index] = position
            left -= 1
            if not left:
                return entries


def _turns(weights: Sequence[int], most: int = 1024) -> list[int]:
    """Whose turn it is to take an entry, one round: each as often as its weight says, and spread over the round."""
    largest = max(weights)
    scale = min(1.0, most / sum(weights))
    counts = [max(1, round(weight * scale)) for weight in weights]
    if largest == min(weights):
        return list(range(len(weights)))
    turns = [((turn + 0.5) / count, index) for index, count in enumerate(counts) for turn in range(count)]
    return [index for _, index in sorted(turns)]


def _preference(name: str, size: int) -> tuple[int, int]:
    """Where a backend begins to look for an entry of its own, and how far it goes on."""
    digest = hashlib.blake2b(name.encode(), digest_size=16).digest()
    return int.from_bytes(digest[:8], "big") % size, int.from_bytes(digest[8:], "big") % (size - 1) + 1
