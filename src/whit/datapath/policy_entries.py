"""The entries of policy: one table with a longest prefix match, kept in two maps.

Whole keys are in a hash, where a look-up costs the same for any number of them, and all others in a trie. Whoever reads
or writes entries need not know.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from whit.datapath.abi import POLICY_PREFIX_EXACT, PolicyKey, PolicyValue
from whit.datapath.maps import HashMap, LpmMap


class PolicyEntries:
    def __init__(self, exact: HashMap[PolicyKey, PolicyValue], prefixes: LpmMap[PolicyKey, PolicyValue]) -> None:
        self.exact = exact
        self.prefixes = prefixes

    def get(self, key: PolicyKey) -> PolicyValue | None:
        """Of the entries that cover the key, that with the longest prefix."""
        found = self.exact.get(key) if _is_whole(key) else None
        return found or self.prefixes.get(key)

    def put(self, key: PolicyKey, value: PolicyValue) -> None:
        """Add or replace. Raises MapFull."""
        self._map_of(key).put(key, value)

    def delete(self, key: PolicyKey) -> bool:
        """Whether it was there."""
        return self._map_of(key).delete(key)

    def items(self) -> Iterator[tuple[PolicyKey, PolicyValue]]:
        """All entries, in no order. Those that come and go meanwhile may be missed or seen twice."""
        yield from self.exact.items()
        yield from self.prefixes.items()

    def count(self) -> int:
        """Number of entries, by walking over all of them."""
        return self.exact.count() + self.prefixes.count()

    def put_many(self, entries: Mapping[PolicyKey, PolicyValue] | Iterable[tuple[PolicyKey, PolicyValue]]) -> None:
        """Add or replace many. Not atomic: readers may see a part of it, and MapFull leaves a part."""
        pairs = list(entries.items() if isinstance(entries, Mapping) else entries)
        self.exact.put_many(pair for pair in pairs if _is_whole(pair[0]))
        self.prefixes.put_many(pair for pair in pairs if not _is_whole(pair[0]))

    def delete_many(self, keys: Iterable[PolicyKey]) -> None:
        """Delete those of the keys that are there."""
        every = list(keys)
        self.exact.delete_many(key for key in every if _is_whole(key))
        self.prefixes.delete_many(key for key in every if not _is_whole(key))

    def _map_of(self, key: PolicyKey) -> HashMap[PolicyKey, PolicyValue]:
        return self.exact if _is_whole(key) else self.prefixes


def _is_whole(key: PolicyKey) -> bool:
    return key.prefix_length == POLICY_PREFIX_EXACT
