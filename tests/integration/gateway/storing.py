"""Stores versions of values as the annotator does, for the routes that tell of them."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime

from pydantic import BaseModel
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from contracts.views import Cause
from services.annotator.domain import Answer, Offered
from services.annotator.store import annotations, releases
from services.annotator.store.annotations import Origin
from tests.builders import build_catalogue, build_file, build_release
from tests.system import Database


class Value(BaseModel):
    start: int
    loeuf: float | None = None


class GeneName(BaseModel):
    symbol: str
    name: str | None = None
    status: str = "approved"
    successors: list[str] = []
    locus_group: str | None = None
    locus_type: str | None = None
    location: str | None = None
    entrez_id: str | None = None
    ensembl_gene_id: str | None = None


@dataclass
class Storing:
    """Stores what sources say, as the annotator does."""

    engine: AsyncEngine
    told: list[tuple[str, str, int | None, int | None]] = field(default_factory=list)
    held: dict[tuple[str, str], int | None] = field(default_factory=dict)

    async def release(
        self,
        source: str,
        version: str,
        *,
        cause: Cause | None = "upstream",
        parser_version: int = 1,
    ) -> Origin:
        async with self.engine.begin() as tx:
            release_id = await build_release(
                tx, source, version, state="accepted", parser_version=parser_version
            )
            await build_file(tx, release_id, sha256=version.encode())
            release = await releases.get_release(tx, release_id)
        return replace(
            release.origin(), matched_by="ensembl_gene_id", cause=cause, tells_first=False
        )

    async def store(
        self, source: str, origin: Origin, values: Mapping[str, int | None]
    ) -> datetime:
        """Returns a time at which this holds, and nothing later."""
        async with self.engine.begin() as tx:
            offered = Offered()
            for place, (hgnc_id, number) in enumerate(values.items()):
                value = None if number is None else Value(start=number, loeuf=number / 10)
                offered.add(Answer(hgnc_id, value, place))
            now = await annotations.lock_store(tx, source)
            await annotations.store_offered(tx, source, offered, origin, now, keeps_empty=True)
        for hgnc_id, number in values.items():
            pair = (hgnc_id, source)
            if pair in self.held and self.held[pair] != number:
                self.told.append((hgnc_id, source, self.held[pair], number))
            self.held[pair] = number
        return await self._now()

    async def name(self, origin: Origin, symbols: Mapping[str, str | None]) -> datetime:
        """A release of the catalogue; returns a time at which this holds, and nothing later."""
        async with self.engine.begin() as tx:
            offered = Offered()
            for place, (hgnc_id, symbol) in enumerate(symbols.items()):
                value = None if symbol is None else GeneName(symbol=symbol)
                offered.add(Answer(hgnc_id, value, place))
            now = await annotations.lock_store(tx, "hgnc")
            await annotations.store_offered(tx, "hgnc", offered, origin, now)
        return await self._now()

    async def _now(self) -> datetime:
        async with self.engine.connect() as connection:
            moment: datetime = await connection.scalar(text("SELECT clock_timestamp()"))
        return moment


@asynccontextmanager
async def open_storing(database: Database) -> AsyncIterator[Storing]:
    """Of a catalogue with genes."""
    async with database.engine("annotator") as engine:
        async with engine.begin() as tx:
            await build_catalogue(tx)
        yield Storing(engine)
