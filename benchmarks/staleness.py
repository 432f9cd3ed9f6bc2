"""Which answers were older than what had been invalidated before they were asked for."""

from bisect import bisect_left
from collections import defaultdict
from dataclasses import dataclass
from itertools import accumulate
from operator import itemgetter

ALLOWED_SECONDS = 1.0


@dataclass(frozen=True)
class Verdict:
    """`judged`: answers for whose gene an invalidation of more than a second before was known;
    `lag_max_seconds`: from an invalidation's acknowledgement to the request whose answer was
    older, the longest; 0 where every answer was new."""

    answers: int
    judged: int
    stale: int
    lag_max_seconds: float


class Checker:
    """Times are seconds of one clock. What is invalidated may be told after the answers that it
    concerns, so nothing is judged before the end."""

    def __init__(self) -> None:
        self._invalidated: defaultdict[str, list[tuple[float, int]]] = defaultdict(list)
        self._answers: list[tuple[str, int, float]] = []
        self._newest: dict[str, int] = {}  # That anybody was answered.

    def invalidated(self, gene: str, version: int, acknowledged: float) -> None:
        """From then on what is older than this version is not to be served."""
        self._invalidated[gene].append((acknowledged, version))

    def ordered(self, gene: str, acknowledged: float) -> None:
        """Somebody ordered that it be forgotten: at least what was answered until then is due."""
        if gene in self._newest:
            self.invalidated(gene, self._newest[gene], acknowledged)

    def answered(self, gene: str, version: int, asked: float) -> None:
        self._answers.append((gene, version, asked))
        self._newest[gene] = max(version, self._newest.get(gene, 0))

    def judge(self) -> Verdict:
        judged = stale = 0
        lag_max = 0.0
        due = {gene: _Due(told) for gene, told in self._invalidated.items()}
        for gene, version, asked in self._answers:
            if gene not in due:
                continue
            judged += asked - due[gene].first > ALLOWED_SECONDS
            lag = due[gene].lag(version, asked)
            stale += lag > ALLOWED_SECONDS
            lag_max = max(lag, lag_max)
        return Verdict(len(self._answers), judged, stale, lag_max)


class _Due:
    """The highest version that was acknowledged, by time."""

    def __init__(self, told: list[tuple[float, int]]) -> None:
        told.sort()
        self._times = [at for at, _ in told]
        self._versions = [*accumulate(map(itemgetter(1), told), max)]

    @property
    def first(self) -> float:
        return self._times[0]

    def lag(self, version: int, asked: float) -> float:
        """How long before this was asked a higher version was acknowledged; 0: it was not."""
        place = bisect_left(self._versions, version + 1)
        return max(asked - self._times[place], 0.0) if place < len(self._times) else 0.0
