"""Rule book: the ids of rules, by direction and text, as they are stored. An id is never given to another rule.

Ids are given out in rising order and kept in segments, so that one change of policy writes one small document. What no
line says any more is kept for a while, because flows that were seen meanwhile speak of it, and then forgotten.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

from pydantic import Field

from whit.model.base import Noun

SEGMENT = 2048
"""Ids of one document: with texts of 400 bytes it stays under the store's limit of 1 MiB."""
KEEP_SECONDS = 7 * 86_400.0


class RuleSegment(Noun):
    """Ids from `number` * SEGMENT on."""

    number: int
    rules: dict[int, str] = Field(default_factory=dict, description="`egress`, or `ingress`, and the text, by id.")
    unused: dict[int, float] = Field(default_factory=dict, description="Since when no line has said it.")


class RuleHead(Noun):
    """The next id: also what was forgotten is not given out again."""

    following: int = 1


class RuleBook:
    """What is known, and what of it is not written down yet."""

    def __init__(self, head: RuleHead | None = None, segments: Iterable[RuleSegment] = ()) -> None:
        self.following = head.following if head else 1
        self._texts: dict[int, str] = {}
        self._keys: dict[int, str] = {}
        self._ids: dict[str, int] = {}
        self._unused: dict[int, float] = {}
        self._uses: Counter[int] = Counter()
        self._stale: set[int] = set()
        for segment in segments:
            self._unused.update(segment.unused)
            for number, key in segment.rules.items():
                self._ids[key] = number
                self._keys[number], self._texts[number] = key, key.partition(" ")[2]
                self.following = max(self.following, number + 1)

    def __len__(self) -> int:
        return len(self._ids)

    def number(self, direction: str, text: str) -> int:
        """The id of a rule, a new one if it has none."""
        key = f"{direction} {text}"
        found = self._ids.get(key)
        if found is None:
            found = self._ids[key] = self.following
            self.following += 1
            self._keys[found], self._texts[found] = key, text
            self._stale.add(found // SEGMENT)
        return found

    def texts(self) -> Mapping[int, str]:
        """What each id says: always the newest."""
        return self._texts

    def use(self, added: Iterable[int], dropped: Iterable[int], now: float) -> None:
        """Entries with these rules came, and others went; as many times as they are named."""
        for number in added:
            self._uses[number] += 1
            if self._unused.pop(number, None) is not None:
                self._stale.add(number // SEGMENT)
        for number in dropped:
            self._uses[number] -= 1
            if not self._uses[number]:
                del self._uses[number]
                self._rest(number, now)

    def settle(self, now: float) -> None:
        """Once all entries have been told for the first time: note which of the stored rules are unused."""
        for number in self._keys.keys() - self._uses.keys() - self._unused.keys():
            self._rest(number, now)

    def forget(self, now: float) -> None:
        """What has been unused for long."""
        for number in [number for number, since in self._unused.items() if now - since > KEEP_SECONDS]:
            del self._ids[self._keys.pop(number)], self._texts[number], self._unused[number]
            self._stale.add(number // SEGMENT)

    def _rest(self, number: int, now: float) -> None:
        self._unused[number] = now
        self._stale.add(number // SEGMENT)

    def unwritten(self) -> tuple[RuleHead, list[RuleSegment]]:
        """The head, and the segments that are to be written; an empty one is to be deleted. They count as written."""
        stale, self._stale = sorted(self._stale), set()
        return RuleHead(following=self.following), [self._segment(number) for number in stale]

    def _segment(self, number: int) -> RuleSegment:
        rules = {one: self._keys[one] for one in range(number * SEGMENT, (number + 1) * SEGMENT) if one in self._keys}
        return RuleSegment(
            number=number, rules=rules, unused={one: self._unused[one] for one in rules if one in self._unused}
        )
