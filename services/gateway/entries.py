"""Cached values: in memory, else shared by all gateways, else made, once for all who ask."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple

import structlog
from cachebox import LRUCache
from sqlalchemy.ext.asyncio import AsyncEngine

from contracts.parts import KEY_CHARACTERS_MAX, Part
from services.chassis import telemetry
from services.chassis.database import CONNECTION_ERRORS
from services.gateway.store import entries
from services.gateway.store.entries import Found
from services.gateway.tally import Outcome, Tally

log = structlog.get_logger()

BYTES_MAX = 16 * 1024 * 1024  # In memory, of each namespace.
ENTRY_BYTES = 600  # What an entry costs beside its key and its value.
HEARD_MAX = 100_000  # Parts that are remembered to be forgotten.
AGE_SECONDS_MAX = 60.0  # What a message that got lost without a trace costs at most.
# While nothing is heard, what was begun so long ago may have been invalidated: who asks now does
# not wait for it.
UNHEARD_SECONDS = 0.5
ATTEMPTS_MAX = 2  # A value that was invalidated while it was made is made once more.

Make = Callable[[], Awaitable[bytes | None]]


class Place(NamedTuple):
    namespace: str
    key: str


@dataclass(frozen=True)
class Entry:
    """A value, or None where there is nothing. It is as of `made_at`, by the database's clock."""

    value: bytes | None
    made_at: datetime


@dataclass(frozen=True)
class _Held:
    entry: Entry
    epoch: int  # Of its namespace, before anything was read for it.
    parts: tuple[str, ...]
    until: float  # By the clock of this process.


_Landed = tuple[Entry, Outcome]


@dataclass(frozen=True)
class _Flight:
    """A value on its way, for all who wait for it."""

    task: "asyncio.Task[_Landed]"
    parts: tuple[str, ...]
    began: float


def _size(key: str, held: _Held) -> int:
    return len(held.entry.value or b"") + len(key) + ENTRY_BYTES


class Entries:
    """Nothing that was made before an invalidation is served after it was heard of, and nothing is
    held in memory while nobody would tell of one (D20)."""

    def __init__(self, engine: AsyncEngine, tally: Tally) -> None:
        self._engine = engine
        self.tally = tally
        self._held: dict[str, LRUCache[str, _Held]] = {}
        self._flights: dict[Place, _Flight] = {}
        self._floors: dict[str, int] = {}  # By namespace: below it, all must be forgotten.
        self._forgotten: dict[tuple[str, str], int] = {}  # By namespace and part: the last epoch.
        self._trusted = False
        self._generation = 0

    async def get(self, namespace: str, key: str, parts: Sequence[Part], make: Make) -> Entry:
        """The value of a key; `parts` are what it depends on besides. `make` returns it, or None
        where there is nothing, and is called once for all who ask meanwhile; what it raises they
        all get. One who is cancelled takes nothing from the others. Raises LookupError where there
        is no such namespace."""
        assert len(key) <= KEY_CHARACTERS_MAX  # Whose text may be longer makes a digest of it.
        place = Place(namespace, key)
        held = self._find(place)
        if held is not None:
            return self._served(place, held.entry, "hit")
        flight = self._flights.get(place)
        if flight is None or not self._may_join(flight):
            depends_on = dict.fromkeys(one for part in parts for one in part.depends_on())
            flight = self._start(place, tuple(depends_on), make)
        entry, outcome = await asyncio.shield(flight.task)
        return self._served(place, entry, outcome)

    def held(self, namespace: str, key: str) -> Entry | None:
        """What is in memory and valid, asked for nowhere else."""
        place = Place(namespace, key)
        found = self._find(place)
        return None if found is None else self._served(place, found.entry, "hit")

    def _find(self, place: Place) -> _Held | None:
        memory = self._held.get(place.namespace)
        if memory is None or (held := memory.get(place.key)) is None:
            return None
        if held.until > time.monotonic() and self._is_valid(place, held.epoch, held.parts):
            return held
        memory.pop(place.key)
        self.tally.note(place.namespace, "stale")
        return None

    def _is_valid(self, place: Place, epoch: int, parts: Iterable[str]) -> bool:
        """As far as was heard."""
        if epoch < self._floors.get(place.namespace, 0):
            return False
        everything = (str(Part(key=place.key)), *parts)
        return all(epoch >= self._forgotten.get((place.namespace, part), 0) for part in everything)

    def _may_join(self, flight: _Flight) -> bool:
        """While nothing is heard, only what was begun just now."""
        return self._trusted or time.monotonic() - flight.began < UNHEARD_SECONDS

    def _start(self, place: Place, parts: tuple[str, ...], make: Make) -> _Flight:
        task = asyncio.create_task(self._fetch(place, parts, make))
        flight = _Flight(task, parts, time.monotonic())
        self._flights[place] = flight

        def landed(done: "asyncio.Task[_Landed]") -> None:
            if self._flights.get(place) is flight:
                del self._flights[place]
            if not done.cancelled():
                done.exception()  # Seen, even if nobody waits for it any more.

        task.add_done_callback(landed)
        return flight

    async def _fetch(self, place: Place, parts: tuple[str, ...], make: Make) -> _Landed:
        for _ in range(ATTEMPTS_MAX):
            generation = self._generation
            async with self._engine.connect() as connection:
                found = await entries.find_entry(connection, *place)
            if found is None:
                raise LookupError(f"no namespace of entries is called {place.namespace!r}")
            if found.entry_epoch is not None:
                assert found.made_at is not None
                assert found.seconds_left is not None
                entry = Entry(found.value, found.made_at)
                outcome: Outcome = "shared"
                epoch, seconds = found.entry_epoch, found.seconds_left
            else:
                entry = await self._make(place, found, parts, make)
                outcome, epoch = "miss", found.epoch
                seconds = found.negative_ttl_seconds if entry.value is None else found.ttl_seconds
            self._keep(place, entry, epoch, parts, seconds, generation)
            if self._is_valid(place, epoch, parts):
                break
        return entry, outcome

    async def _make(self, place: Place, found: Found, parts: tuple[str, ...], make: Make) -> Entry:
        try:
            value = await make()
        except Exception:
            self.tally.note(place.namespace, "failed")
            raise
        self.tally.note(place.namespace, "made")
        try:
            async with self._engine.begin() as tx:
                is_kept = await entries.put_entry(tx, *place, found, parts, value)
        except CONNECTION_ERRORS as error:
            log.warning("entry_not_shared", namespace=place.namespace, error=repr(error))
            is_kept = False
        if not is_kept:
            self.tally.note(place.namespace, "refused")
        return Entry(value, found.at)

    def _keep(
        self,
        place: Place,
        entry: Entry,
        epoch: int,
        parts: tuple[str, ...],
        seconds: float,
        generation: int,
    ) -> None:
        """In memory; unless all had to be forgotten since `generation`."""
        if not self._trusted or generation != self._generation:
            return
        until = time.monotonic() + min(seconds, AGE_SECONDS_MAX)
        held = _Held(entry, epoch, parts, until)
        if _size(place.key, held) <= BYTES_MAX:
            if place.namespace not in self._held:
                self._held[place.namespace] = LRUCache(BYTES_MAX, getsizeof=_size)
            self._held[place.namespace][place.key] = held

    def _served(self, place: Place, entry: Entry, outcome: Outcome) -> Entry:
        self.tally.note(place.namespace, outcome)
        age = datetime.now(entry.made_at.tzinfo) - entry.made_at
        telemetry.CACHE_AGE.labels(place.namespace).observe(max(age.total_seconds(), 0))
        return entry

    # ---------------------------------------------------------------------- what is heard

    def invalidate(self, namespace: str, epoch: int, parts: Iterable[str] = ()) -> None:
        """Forget these parts of a namespace, or all of it, whatever is older than this epoch."""
        forgotten = {one for part in parts for one in Part.parse(part).forgets()}
        if not forgotten:
            self._floors[namespace] = max(epoch, self._floors.get(namespace, 0))
        if len(self._forgotten) + len(forgotten) > HEARD_MAX:
            self._forgotten.clear()
            self.forget()
        for part in forgotten:
            heard = self._forgotten.get((namespace, part), 0)
            self._forgotten[namespace, part] = max(epoch, heard)
        # Who asks from now on does not wait for what was begun before.
        self._flights = {
            place: flight
            for place, flight in self._flights.items()
            if place.namespace != namespace or not _concerns(forgotten, place, flight)
        }

    def trust(self, hears: bool) -> None:
        """Say whether invalidations are heard of at the moment."""
        if self._trusted != hears:
            self._trusted = hears
            self.forget()

    def forget(self) -> None:
        for memory in self._held.values():
            memory.clear()
        self._generation += 1

    # ------------------------------------------------------------------------ what is told

    def in_memory(self, namespace: str) -> tuple[int, int]:
        """How many values of a namespace are in memory, and the bytes that they take."""
        memory = self._held.get(namespace)
        return (0, 0) if memory is None else (len(memory), memory.current_size())

    @property
    def bytes(self) -> int:
        return sum(memory.current_size() for memory in self._held.values())


def _concerns(forgotten: set[str], place: Place, flight: _Flight) -> bool:
    return not forgotten or not forgotten.isdisjoint((str(Part(key=place.key)), *flight.parts))
