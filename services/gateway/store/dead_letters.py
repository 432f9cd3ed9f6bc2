"""Dead letters: what was parked, what people decided about it, and what is sent again."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import orjson
from sqlalchemy import RowMapping, text
from sqlalchemy.ext.asyncio import AsyncConnection

from contracts.messages import BatchDead
from contracts.topics import DEAD_LETTERS, RECORD_BYTES_MAX, topics
from services.chassis.dead_letters import Letter
from services.chassis.errors import DETAIL_CHARACTERS_MAX, Problem
from services.chassis.outbox import read_headers, write_headers
from services.gateway.errors import DeadLetterUnknown

RETRY_OF = "retry_of"  # The header that names the letter whose retry a record is.
FRAMING_BYTES = 512  # Of a record that is sent again: its batch, and the header that says so.
RETRY_BYTES_MAX = RECORD_BYTES_MAX - FRAMING_BYTES
HEADER_BYTES = 10  # What a header takes besides its name and its value, at most.
READ_BYTES_MAX = 256 * 1024  # Of a body that is asked what it is about: a few ms of the loop.
PROBLEM_BYTES_MAX = 16 * 1024  # Ours is half as long; anybody may write to the topic.
TYPE_CHARACTERS_MAX = 200
SOURCE_CHARACTERS_MAX = 100
MS_MAX = 4_102_444_800_000  # The year 2100: a clock that says so is no clock.

STATES = ("open", "retried", "discarded")
KINDS = ("message", "batch")

Row = dict[str, Any]


@dataclass(frozen=True)
class Wanted:
    """Which letters; None: whatever they have there."""

    state: Sequence[str] | None = None
    kind: Sequence[str] | None = None
    topic: Sequence[str] | None = None
    source: Sequence[str] | None = None
    run: Sequence[UUID] | None = None
    type: Sequence[str] | None = None


_WANTED = """
    (CAST(:state AS text[]) IS NULL OR state = ANY (CAST(:state AS text[])))
    AND (CAST(:kind AS text[]) IS NULL OR kind = ANY (CAST(:kind AS text[])))
    AND (CAST(:topic AS text[]) IS NULL OR topic = ANY (CAST(:topic AS text[])))
    AND (CAST(:source AS text[]) IS NULL OR source = ANY (CAST(:source AS text[])))
    AND (CAST(:run AS uuid[]) IS NULL OR run_ids && CAST(:run AS uuid[]))
    AND (CAST(:type AS text[]) IS NULL OR type = ANY (CAST(:type AS text[])))
"""

_COLUMNS = """
    id, kind, state, parked_at, service, consumer_group, attempts, problem::text AS problem,
    run_ids, source, batch_id, topic, partition, "offset", recorded_at, type, bytes,
    is_left_at_origin, decided_at, decided_by, note, retry_run_id, retry_of
"""

# Why a letter cannot be sent again; NULL: it can.
_REFUSAL = """
    CASE WHEN kind = 'batch' AND source <> ALL (CAST(:sources AS text[])) THEN 'source'
         WHEN kind = 'batch' AND NOT EXISTS (
             SELECT FROM annotator.batch_v1 b
             WHERE b.batch_id = dead_letter.batch_id AND b.state = 'dead') THEN 'batch'
         WHEN is_left_at_origin THEN 'left'
         WHEN topic <> ALL (CAST(:topics AS text[])) THEN 'topic'
         WHEN bytes > :bytes_max THEN 'bytes' END
"""


# ------------------------------------------------------------------------------- what came


async def keep_message(tx: AsyncConnection, letter: Letter) -> None:
    """Once, however often it arrives; whatever it is made of."""
    headers = dict(letter.headers)
    run_ids, source, batch_id = _subject(letter.value)
    await tx.execute(
        text("""
            INSERT INTO dead_letter (kind, parked_at, service, consumer_group, attempts, problem,
                run_ids, source, batch_id, topic, partition, "offset", recorded_at, type, key,
                headers, payload, bytes, is_left_at_origin, retry_of)
            VALUES ('message', least(CAST(:parked_at AS timestamptz), now()), :service, :group,
                :attempts, CAST(:problem AS json), CAST(:run_ids AS uuid[]), :source, :batch_id,
                :topic, :partition, :offset, :recorded_at, :type, :key, CAST(:headers AS json),
                :payload, :bytes, :is_left_at_origin,
                (SELECT id FROM dead_letter WHERE id = CAST(:retry_of AS uuid)))
            ON CONFLICT (topic, partition, "offset", recorded_at, consumer_group)
                WHERE kind = 'message' DO NOTHING
        """),
        {
            "parked_at": _time(letter.parked_at_ms),
            "service": letter.service,
            "group": letter.group,
            "attempts": letter.attempts,
            "problem": _problem(letter.problem),
            "run_ids": run_ids,
            "source": source,
            "batch_id": batch_id,
            "topic": letter.topic,
            "partition": letter.partition,
            "offset": letter.offset,
            "recorded_at": _time(letter.recorded_at_ms),
            "type": _readable(headers.get("ce_type"), TYPE_CHARACTERS_MAX),
            "key": letter.key,
            "headers": write_headers(letter.headers),
            "payload": letter.value,
            "bytes": _size(letter),
            "is_left_at_origin": letter.is_left_at_origin,
            "retry_of": _uuid(_readable(headers.get(RETRY_OF), TYPE_CHARACTERS_MAX)),
        },
    )


async def keep_batch(tx: AsyncConnection, fact: BatchDead) -> None:
    """One row for a death, whichever runs it is told to. A slice that was tried again for a later
    run, and died again, is another."""
    await tx.execute(
        text("""
            WITH kept AS (
                INSERT INTO dead_letter (kind, parked_at, service, attempts, problem, run_ids,
                    source, batch_id, retry_of)
                SELECT 'batch',
                    coalesce((SELECT time FROM annotator.run_fact_v1
                              WHERE run_id = :run_id AND seq = :seq), now()),
                    'annotator',
                    (SELECT attempt FROM annotator.batch_v1 WHERE batch_id = :batch_id),
                    CAST(:problem AS json), ARRAY[CAST(:run_id AS uuid)], :source, :batch_id,
                    (SELECT id FROM dead_letter
                     WHERE retry_run_id = :run_id AND source = :source
                     ORDER BY batch_id <> :batch_id, id LIMIT 1)
                WHERE NOT EXISTS (
                    SELECT FROM dead_letter_fact WHERE run_id = :run_id AND seq = :seq)
                ON CONFLICT (batch_id) WHERE kind = 'batch' AND state = 'open' DO UPDATE SET
                    run_ids = CASE WHEN excluded.run_ids <@ dead_letter.run_ids
                        THEN dead_letter.run_ids ELSE dead_letter.run_ids || excluded.run_ids END
                RETURNING id
            )
            INSERT INTO dead_letter_fact (run_id, seq, letter_id)
            SELECT :run_id, :seq, id FROM kept ON CONFLICT DO NOTHING
        """),
        {
            "run_id": fact.run_id,
            "seq": fact.seq,
            "problem": orjson.dumps(dict(fact.problem)).decode(),
            "source": fact.source,
            "batch_id": fact.batch_id,
        },
    )


async def count_open(connection: AsyncConnection) -> Mapping[str, int]:
    rows = await connection.execute(
        text("""
            SELECT kind, count(*) AS letters FROM dead_letter WHERE state = 'open' GROUP BY kind
        """)
    )
    return {"message": 0, "batch": 0} | {str(row.kind): int(row.letters) for row in rows}


def _subject(payload: bytes | None) -> tuple[list[UUID], str | None, UUID | None]:
    """The runs, the source and the batch that a message says it is about."""
    if payload is None or len(payload) > READ_BYTES_MAX:
        return [], None, None
    try:
        body = orjson.loads(payload)
    except orjson.JSONDecodeError:
        return [], None, None
    if not isinstance(body, dict):
        return [], None, None
    run_id, source = _uuid(body.get("run_id")), body.get("source")
    if not isinstance(source, str) or "\x00" in source or len(source) > SOURCE_CHARACTERS_MAX:
        source = None
    return [run_id] if run_id else [], source, _uuid(body.get("batch_id"))


def _problem(problem: Problem) -> str:
    """Cut where it is longer than any of ours: a page of a list has 200 of them."""
    whole = orjson.dumps(problem)
    if len(whole) > PROBLEM_BYTES_MAX:
        members = ("type", "title", "detail")
        whole = orjson.dumps(
            {name: str(problem.get(name, ""))[:DETAIL_CHARACTERS_MAX] for name in members}
        )
    return whole.decode()


def _time(milliseconds: int) -> datetime | None:
    known = 0 < milliseconds < MS_MAX
    return datetime.fromtimestamp(milliseconds / 1000, UTC) if known else None


def _uuid(value: object) -> UUID | None:
    try:
        return UUID(value) if isinstance(value, str) else None
    except ValueError:
        return None


def _readable(value: bytes | None, characters_max: int) -> str | None:
    found = (value or b"").decode(errors="replace")
    return found if found and "\x00" not in found and len(found) <= characters_max else None


def _size(letter: Letter) -> int:
    """What a record takes in its topic, at most."""
    headers = sum(
        len(name.encode()) + len(value or b"") + HEADER_BYTES for name, value in letter.headers
    )
    return len(letter.key or b"") + len(letter.value or b"") + headers


# ------------------------------------------------------------------------------ what is read


async def list_letters(
    connection: AsyncConnection, wanted: Wanted, limit: int, offset: int
) -> list[Row]:
    """Newest first, without what they hold."""
    rows = await connection.execute(
        text(f"""
            SELECT {_COLUMNS} FROM dead_letter WHERE {_WANTED}
            ORDER BY parked_at DESC, id DESC LIMIT :limit OFFSET :offset
        """),
        {**vars(wanted), "limit": limit, "offset": offset},
    )
    return [_row(row) for row in rows.mappings()]


async def get_letter(connection: AsyncConnection, letter_id: str, *, lock: bool = False) -> Row:
    """With why it cannot be sent again, if so. Raises DeadLetterUnknown."""
    rows = await connection.execute(
        text(f"""
            SELECT {_COLUMNS}, {_REFUSAL} AS refusal FROM dead_letter WHERE id = :id
            {"FOR UPDATE" if lock else ""}
        """),
        {"id": _uuid(letter_id), **await _places(connection)},
    )
    row = rows.mappings().one_or_none()
    if row is None:
        raise DeadLetterUnknown(letter_id)
    return _row(row)


@dataclass(frozen=True)
class Content:
    """What a letter holds: a message's parts; of a batch, what is left of it."""

    key: bytes | None
    headers: Sequence[tuple[str, bytes | None]]
    payload: bytes | None
    batch: Row | None


async def get_content(connection: AsyncConnection, letter_id: UUID) -> Content:
    row = (
        await connection.execute(
            text("""
                SELECT l.key, l.headers::text AS headers, l.payload, b.kind, b.state, b.gene_count,
                       b.checkpoint, b.genes_left
                FROM dead_letter l LEFT JOIN annotator.batch_v1 b
                    ON l.kind = 'batch' AND b.batch_id = l.batch_id
                WHERE l.id = :id
            """),
            {"id": letter_id},
        )
    ).one()
    batch = None
    if row.kind is not None:
        batch = {
            "kind": row.kind,
            "state": row.state,
            "gene_count": row.gene_count,
            "checkpoint": row.checkpoint,
            "genes_left": row.genes_left,
        }
    return Content(row.key, read_headers(row.headers or "[]"), row.payload, batch)


async def list_topics(connection: AsyncConnection) -> list[str]:
    """Where messages come from: those of retired sources included."""
    sources = await connection.scalars(text("SELECT name FROM annotator.source_v1 ORDER BY name"))
    return [topic.name for topic in topics(sources)]


async def list_sources(connection: AsyncConnection) -> list[str]:
    """Whose letters there may be: retired ones included."""
    return list(
        await connection.scalars(text("SELECT name FROM annotator.source_v1 ORDER BY name"))
    )


async def _places(connection: AsyncConnection) -> Mapping[str, Any]:
    """Where something can be sent, and how much."""
    sources = await connection.scalars(
        text("SELECT name FROM annotator.source_v1 WHERE NOT is_retired")
    )
    places = [name for name in await list_topics(connection) if name != DEAD_LETTERS]
    return {"sources": list(sources), "topics": places, "bytes_max": RETRY_BYTES_MAX}


def _row(row: RowMapping) -> Row:
    found = dict(row)
    found["id"] = UUID(str(row["id"]))
    found["problem"] = orjson.loads(row["problem"])
    found["run_ids"] = [str(run_id) for run_id in row["run_ids"]]
    for name in ("batch_id", "retry_run_id", "retry_of"):
        found[name] = None if row[name] is None else str(row[name])
    return found


# ------------------------------------------------------------------------- what is decided


async def lock_open(
    tx: AsyncConnection, wanted: Wanted, limit: int, *, sendable: bool
) -> list[Row]:
    """The oldest open letters, and only those that can be sent again where that is wanted."""
    rows = await tx.execute(
        text(f"""
            SELECT {_COLUMNS} FROM dead_letter
            WHERE {_WANTED} AND state = 'open' AND (NOT :sendable OR {_REFUSAL} IS NULL)
            ORDER BY id LIMIT :limit FOR UPDATE
        """),
        {**vars(wanted), "limit": limit, "sendable": sendable, **await _places(tx)},
    )
    return [_row(row) for row in rows.mappings()]


async def count_wanted(connection: AsyncConnection, wanted: Wanted) -> int:
    count = await connection.scalar(
        text(f"SELECT count(*) FROM dead_letter WHERE {_WANTED} AND state = 'open'"), vars(wanted)
    )
    return int(count or 0)


@dataclass(frozen=True)
class Verdict:
    state: str  # retried or discarded.
    by: str
    note: str | None


async def decide(
    tx: AsyncConnection, ids: Sequence[UUID], verdict: Verdict, run_id: UUID | None = None
) -> None:
    await tx.execute(
        text("""
            UPDATE dead_letter SET state = :state, decided_at = now(), decided_by = :by,
                note = :note, retry_run_id = :run_id
            WHERE id = ANY (CAST(:ids AS uuid[])) AND state = 'open'
        """),
        {**vars(verdict), "ids": list(ids), "run_id": run_id},
    )


async def send_again(tx: AsyncConnection, ids: Sequence[UUID]) -> None:
    """Have the relay send messages as they came, oldest first, saying whose retry they are. Their
    bytes go from table to table."""
    await tx.execute(
        text("""
            INSERT INTO outbox (topic, key, headers, payload, raw_key, raw_headers)
            SELECT topic, coalesce(encode(sha256(key), 'hex'), id::text),
                   jsonb_build_object(CAST(:retry_of AS text), id::text), payload, key, headers
            FROM dead_letter WHERE id = ANY (CAST(:ids AS uuid[])) ORDER BY id
        """),
        {"ids": list(ids), "retry_of": RETRY_OF},
    )


@dataclass(frozen=True)
class Undone:
    """What is left of a dead batch; `genes` is None for a release, which is stored whole."""

    letter_id: UUID
    source: str
    genes: Sequence[str] | None


async def list_undone(tx: AsyncConnection, ids: Sequence[UUID]) -> list[Undone]:
    """A look at what an API publishes has no genes itself: those of its runs that waited for it,
    and were given up with it, are left. They are looked for once, however many looks there are."""
    rows = await tx.execute(
        text("""
            WITH chosen AS (
                SELECT l.id, l.source, l.run_ids, b.genes_left,
                       b.kind = 'release' AND s.kind = 'api' AS is_look
                FROM dead_letter l JOIN annotator.batch_v1 b ON b.batch_id = l.batch_id
                JOIN annotator.source_v1 s ON s.name = l.source
                WHERE l.id = ANY (CAST(:ids AS uuid[]))
            ), waited AS (
                SELECT looks.id, array_agg(DISTINCT gene.hgnc_id) AS genes
                FROM (SELECT id, source, unnest(run_ids) AS run_id FROM chosen
                      WHERE is_look) looks
                JOIN annotator.batch_v1 b ON b.run_id = looks.run_id AND b.source = looks.source
                    AND b.kind = 'fetch' AND b.state = 'dead'
                CROSS JOIN unnest(b.genes_left) gene (hgnc_id)
                GROUP BY looks.id
            )
            SELECT chosen.id, chosen.source,
                   CASE WHEN is_look THEN coalesce(genes, '{}') ELSE genes_left END AS genes
            FROM chosen LEFT JOIN waited ON waited.id = chosen.id
            ORDER BY chosen.source, chosen.id
        """),
        {"ids": list(ids)},
    )
    return [Undone(UUID(str(row.id)), row.source, row.genes) for row in rows]
