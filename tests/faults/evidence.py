"""Gathers a run's history: from the database, from the topics, and from its client."""

import asyncio
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from math import inf
from typing import Any
from uuid import UUID

import asyncpg
from aiokafka import AIOKafkaConsumer, TopicPartition

from contracts.messages import RunFact, RunProgress
from contracts.topics import DEAD_LETTERS, topics
from services.annotator.sources import SOURCES
from tests.faults.client import Client
from tests.faults.history import (
    Announced,
    Arrived,
    BatchRow,
    BatchWrite,
    FactRow,
    Frame,
    History,
    Order,
    SourceCounts,
    Value,
)
from tests.system import Database
from tests.waiting import until

POLL_MILLISECONDS = 50
SETTLE_SECONDS_MAX = 60.0
READ_SECONDS_MAX = 10.0
LATE_SECONDS = 20.0  # Nothing that is in order takes as long: then one wants to know what it is.

# What a trigger sees is the truth of each write, whatever the writer believed. The functions are
# the owner's, so that services write where they may not look.
AUDIT = """
CREATE SCHEMA audit;
CREATE TABLE audit.batch_write (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    xid xid8 NOT NULL DEFAULT pg_current_xact_id(),
    at timestamptz NOT NULL DEFAULT clock_timestamp(),
    writer text NOT NULL DEFAULT current_setting('application_name'),
    batch_id uuid NOT NULL, source text NOT NULL, old_state text NOT NULL, new_state text NOT NULL,
    old_token bigint NOT NULL, new_token bigint NOT NULL, step integer NOT NULL,
    lease_over boolean NOT NULL
);
CREATE FUNCTION audit.note_batch() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$
BEGIN
    INSERT INTO audit.batch_write
        (batch_id, source, old_state, new_state, old_token, new_token, step, lease_over)
    VALUES (new.id, new.source, old.state, new.state, old.lease_token, new.lease_token,
            new.checkpoint - old.checkpoint, coalesce(old.lease_until < now(), false));
    RETURN NULL;
END $$;
CREATE TRIGGER audit AFTER UPDATE ON annotator.batch  -- Some only lock it.
    FOR EACH ROW WHEN (old.* IS DISTINCT FROM new.*) EXECUTE FUNCTION audit.note_batch();

CREATE TABLE audit.announced (
    service text NOT NULL, id bigint NOT NULL, topic text NOT NULL, key text NOT NULL,
    event_id uuid NOT NULL, PRIMARY KEY (service, id)
);
CREATE FUNCTION audit.note_announced() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$
BEGIN
    INSERT INTO audit.announced
    SELECT TG_TABLE_SCHEMA, id, topic, key, event_id FROM added;
    RETURN NULL;
END $$;
"""
AUDIT_OUTBOX = """
CREATE TRIGGER audit AFTER INSERT ON {service}.outbox REFERENCING NEW TABLE AS added
    FOR EACH STATEMENT EXECUTE FUNCTION audit.note_announced();
"""

RELAYED = """
SELECT topic, key, event_id::text FROM audit.announced WHERE (service, id) NOT IN (
    SELECT 'annotator', id FROM annotator.outbox UNION ALL SELECT 'cache', id FROM cache.outbox
    UNION ALL SELECT 'gateway', id FROM gateway.outbox)
ORDER BY service, id
"""


async def install_audit(owner: "asyncpg.Connection[asyncpg.Record]") -> None:
    await owner.execute(AUDIT)
    for service in ("annotator", "cache", "gateway"):
        await owner.execute(AUDIT_OUTBOX.format(service=service))


@dataclass
class Tap:
    """Everything that comes through the topics of one system, each record once."""

    bootstrap: str
    prefix: str
    poison: set[str] = field(default_factory=set)  # Where records are that are none of ours.
    _read: dict[TopicPartition, int] = field(default_factory=dict)

    async def records(self) -> list[Arrived]:
        """What has come since the last call, in the order of each partition."""
        places = [
            TopicPartition(topic.name, number)
            for topic in topics(SOURCES, self.prefix)
            if topic.name != self.prefix + RunProgress.topic  # Past the outbox: it may be lost.
            for number in range(topic.partitions)
        ]
        consumer = AIOKafkaConsumer(
            bootstrap_servers=self.bootstrap,
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            fetch_max_wait_ms=POLL_MILLISECONDS,
        )
        await consumer.start()
        found: list[Arrived] = []
        try:
            consumer.assign(places)  # Before the ends: it asks at once about what it was assigned.
            ends = await consumer.end_offsets(places)
            left = {place for place in places if self._read.get(place, 0) < ends[place]}
            consumer.assign(left)
            for place in left:
                consumer.seek(place, self._read.get(place, 0))
            while left:
                batches = await consumer.getmany(timeout_ms=POLL_MILLISECONDS)
                for place, records in batches.items():
                    found += [
                        self._arrived(record)
                        for record in records
                        if f"{place.topic}/{place.partition}/{record.offset}" not in self.poison
                    ]
                    self._read[place] = records[-1].offset + 1
                left = {place for place in left if self._read.get(place, 0) < ends[place]}
        finally:
            await consumer.stop()
        return found

    def _arrived(self, record: Any) -> Arrived:
        headers = {name: (value or b"").decode(errors="replace") for name, value in record.headers}
        topic = record.topic.removeprefix(self.prefix)
        if topic == DEAD_LETTERS:
            return Arrived(topic, headers["origin"], "", "")
        seq = None
        if topic == RunFact.topic:
            seq = RunFact.model_validate_json(record.value).seq
        return Arrived(
            topic, record.key.decode(), headers.get("ce_id", ""), headers.get("ce_type", ""), seq
        )


# What somebody still has to do, a line each.
LEFT = """
SELECT left(concat_ws(' ', what, detail), 400) FROM (
    SELECT 'gateway.outbox' AS what, to_jsonb(o)::text AS detail FROM gateway.outbox o
    UNION ALL SELECT 'annotator.outbox', to_jsonb(o)::text FROM annotator.outbox o
    UNION ALL SELECT 'cache.outbox', to_jsonb(o)::text FROM cache.outbox o
    UNION ALL SELECT 'cache.dirty_gene', hgnc_id FROM cache.dirty_gene
    UNION ALL
    SELECT 'annotator.batch', (to_jsonb(b) - 'genes')::text FROM annotator.batch b
    WHERE state NOT IN ('done', 'dead', 'cancelled')
    UNION ALL
    SELECT 'annotator.run', (to_jsonb(r) - 'genes')::text FROM annotator.run r
    WHERE finished_at IS NULL
    UNION ALL
    SELECT 'only gateway.run', id::text FROM gateway.run g
    WHERE NOT EXISTS (SELECT FROM annotator.run a WHERE a.id = g.id)
) AS work LIMIT 10
"""

# What is between the topic and the cache is in no table.
UNREADABLE = """
SELECT concat_ws(' ', hgnc_id, source) FROM annotator.current_annotation_v1 c
LEFT JOIN (SELECT hgnc_id, a.key AS source, a.value->>'value' AS value
           FROM cache.gene, json_each(document->'annotations') a) d USING (hgnc_id, source)
WHERE d.value IS DISTINCT FROM c.value::text LIMIT 10
"""


async def settle(database: Database) -> None:
    """Wait until nothing is left to do and readers see it, while the database may come and go."""
    found = ["nobody was asked yet"]
    late = time.monotonic() + LATE_SECONDS

    async def is_none(question: str) -> bool:
        nonlocal late
        try:
            async with asyncio.timeout(READ_SECONDS_MAX), database.connect() as owner:
                found[:] = [row[0] for row in await owner.fetch(question)]
        except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
            found[:] = [repr(error)]
        if found and time.monotonic() > late:
            sys.stdout.write(f"         after {LATE_SECONDS:g} s there is left: {found}\n")
            late = inf  # Once: what is slow is of the same kind to its end.
        return not found

    for question, what in (
        (LEFT, "nothing is left to do"),
        (UNREADABLE, "each document has the current values"),
    ):
        try:
            await until(partial(is_none, question), what, SETTLE_SECONDS_MAX)
        except AssertionError as error:
            raise AssertionError(f"{error}; found {found}") from error


async def current_values(owner: "asyncpg.Connection[asyncpg.Record]") -> list[Value]:
    rows = await owner.fetch(
        """SELECT hgnc_id, source, encode(digest, 'hex') AS digest FROM annotator.annotation
           WHERE valid_to = 'infinity'"""
    )
    return [Value(**row) for row in rows]


async def gather(
    database: Database,
    tap: Tap,
    client: Client,
    expected: Sequence[Value] | None = None,
) -> History:
    async with database.connect() as owner:
        # Statistics are made at any time: what is announced while this looks is not looked for.
        announced = await owner.fetch(RELAYED)
        records = await tap.records()
        return await _gather(owner, records, announced, client, expected)


async def _gather(
    owner: "asyncpg.Connection[asyncpg.Record]",
    records: Sequence[Arrived],
    announced: Sequence[asyncpg.Record],
    client: Client,
    expected: Sequence[Value] | None,
) -> History:
    run_id = UUID(client.answers[-1])
    records = [one for one in records if one.seq is None or one.key == str(run_id)]
    state = await owner.fetchval("SELECT state FROM annotator.run WHERE id = $1", run_id)
    genes = await owner.fetch(
        """SELECT g.hgnc_id FROM annotator.gene g JOIN annotator.run ON run.id = $1
           WHERE g.status = 'approved' AND (run.all_genes OR EXISTS (
               SELECT FROM annotator.run_gene s WHERE s.run_id = $1 AND s.hgnc_id = g.hgnc_id))""",
        run_id,
    )
    sources = await owner.fetch(
        """SELECT source, state, total_count AS total, done_count AS done, no_data_count AS no_data,
                  failed_count AS failed, cancelled_count AS cancelled
           FROM annotator.run_source WHERE run_id = $1""",
        run_id,
    )
    batches = await owner.fetch(
        """SELECT b.id::text AS batch_id, b.source, b.kind, b.state, cardinality(b.genes) AS genes,
                  b.checkpoint
           FROM annotator.batch b"""
    )
    facts = await owner.fetch(
        """SELECT seq, type, body->>'batch_id' AS batch_id FROM annotator.run_fact
           WHERE run_id = $1 ORDER BY time, seq""",
        run_id,
    )
    writes = await owner.fetch(
        """SELECT xid::text, writer, w.batch_id::text, source, old_state, new_state, old_token,
                  new_token, step, lease_over, extract(epoch FROM at)::float AS at
           FROM audit.batch_write w ORDER BY id"""
    )
    stored = await owner.fetch("SELECT xid::text, source FROM annotator.annotation")
    misspelt = await owner.fetch(
        """SELECT hgnc_id, source FROM annotator.annotation
           WHERE value IS NOT NULL AND digest <> sha256(convert_to(value::text, 'UTF8'))"""
    )
    runs_with_key = await owner.fetchval(
        "SELECT count(*) FROM gateway.run WHERE name = $1", client.key
    )
    return History(
        order=Order(client.key, client.attempts, tuple(client.answers), runs_with_key),
        state=state,
        genes=[row["hgnc_id"] for row in genes],
        sources=[SourceCounts(**row) for row in sources],
        batches=[BatchRow(**row) for row in batches],
        values=await current_values(owner),
        facts=[FactRow(**row) for row in facts],
        announced=[Announced(**row) for row in announced],
        arrived=[record for record in records if record.topic != DEAD_LETTERS],
        writes=[BatchWrite(**row) for row in writes],
        stored=[(row["xid"], row["source"]) for row in stored],
        frames=[_frame(frame) for frame in client.frames],
        dead_letters=[record.key for record in records if record.topic == DEAD_LETTERS],
        misspelt=[f"{row['hgnc_id']} ({row['source']})" for row in misspelt],
        expected=expected,
        controls=client.controls,
    )


def _frame(frame: dict[str, Any]) -> Frame:
    counts = {
        name: (one["done_count"], one["no_data_count"], one["failed_count"])
        for name, one in frame["sources"].items()
    }
    return Frame(frame["type"], frame["seq"], frame["status"], frame["progress"], counts)
