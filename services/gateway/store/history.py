"""What was known of genes at a time, what has changed since, and where each value is from."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from uuid import UUID

import orjson
from sqlalchemy import RowMapping, text
from sqlalchemy.ext.asyncio import AsyncConnection

from services.gateway.store.genes import Document

Row = RowMapping
_NAMED = (  # What a document has of the catalogue's value.
    *("symbol", "name", "status", "successors", "locus_group", "locus_type", "location"),
    *("entrez_id", "ensembl_gene_id"),
)

SETTLED_SECONDS = 5  # The longest transaction: what is older will not be written any more.

_NOW = datetime.max.replace(tzinfo=UTC)  # Later than any version began, so the current one holds.

# The version that held at a time: former and current ones have an index each, so each is asked.
_HELD = """
    SELECT {columns} FROM (
        SELECT * FROM annotator.annotation_v1 v
        WHERE v.hgnc_id = {gene} AND v.source = {source} AND v.is_current
          AND v.valid_from <= {at}
        UNION ALL
        SELECT * FROM annotator.annotation_v1 v
        WHERE v.hgnc_id = {gene} AND v.source = {source} AND NOT v.is_current
          AND v.valid_from <= {at} AND v.valid_to > {at}
    ) v LIMIT 1
"""


async def see_one_moment(connection: AsyncConnection) -> None:
    """Let all that this transaction reads be of its first statement's moment. Comes first in it."""
    await connection.execute(text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ"))


async def is_settled(connection: AsyncConnection, at: datetime) -> bool:
    """Whether nothing that holds at this time can still be written."""
    settled = await connection.scalar(
        text("SELECT CAST(:at AS timestamptz) <= now() - make_interval(secs => :seconds)"),
        {"at": at, "seconds": SETTLED_SECONDS},
    )
    return bool(settled)


async def annotations_now(
    connection: AsyncConnection, hgnc_id: str, source: str | None = None
) -> list[Row]:
    """What each source, or one, says of a gene."""
    rows = await connection.execute(
        text("""
            SELECT hgnc_id, source, status, value::text AS value, valid_from,
                   CAST(NULL AS timestamptz) AS valid_to, release_id, release, synthetic,
                   checked_at AS as_of
            FROM annotator.current_annotation_v1
            WHERE hgnc_id = :hgnc_id AND (CAST(:source AS text) IS NULL OR source = :source)
            ORDER BY source
        """),
        {"hgnc_id": hgnc_id, "source": source},
    )
    return [row._mapping for row in rows]


async def annotations_at(
    connection: AsyncConnection, hgnc_ids: Sequence[str], at: datetime, source: str | None = None
) -> list[Row]:
    """What each source, or one, said of genes at a time; one row for each pair.

    A bulk source that had a release then and did not name a gene says that it has none. An API
    without a version had not been asked. `as_of` is when the source, or of an API the gene, had
    been checked last: the last check alone is kept, so it is null where there was one since.
    """
    held = _HELD.format(columns="v.*", gene="g.hgnc_id", source="s.name", at=":at")
    rows = await connection.execute(
        text(f"""
            WITH s AS MATERIALIZED (  -- Each with the release that readers relied on then.
                SELECT s.name, s.kind, s.is_catalogue, n.checked_at,
                       n.release_id IS NOT NULL AS had_release
                FROM annotator.source_v1 s
                LEFT JOIN LATERAL (
                    SELECT release_id, checked_at FROM annotator.release_v1 r
                    WHERE r.source = s.name AND r.readable_since <= :at
                    ORDER BY r.retrieved_at DESC LIMIT 1
                ) n ON true
                WHERE CAST(:source AS text) IS NULL OR s.name = :source
            )
            SELECT g.hgnc_id, s.name AS source, s.is_catalogue, CASE
                       WHEN a.value IS NOT NULL THEN 'ok'
                       WHEN a.id IS NOT NULL THEN 'empty'
                       WHEN s.kind = 'bulk' AND s.had_release THEN 'empty'
                       ELSE 'pending' END AS status,
                   a.value::text AS value, a.valid_from, a.valid_to, a.release_id,
                   r.version AS release, coalesce(r.synthetic, false) AS synthetic,
                   CASE WHEN checked.at <= :at THEN checked.at END AS as_of
            FROM unnest(CAST(:hgnc_ids AS text[])) WITH ORDINALITY AS g (hgnc_id, place)
            CROSS JOIN s
            LEFT JOIN LATERAL ({held}) a ON true
            LEFT JOIN LATERAL (
                SELECT checked_at FROM annotator.checked_v1 c
                WHERE c.hgnc_id = g.hgnc_id AND c.source = s.name LIMIT 1
            ) c ON true
            -- What stood in for a release is as old as its value.
            CROSS JOIN LATERAL (
                SELECT coalesce(c.checked_at, s.checked_at, a.valid_from) AS at) checked
            LEFT JOIN LATERAL (
                SELECT * FROM annotator.release_v1 r WHERE r.release_id = a.release_id LIMIT 1
            ) r ON true
            ORDER BY g.place, s.name
        """),
        {"hgnc_ids": list(hgnc_ids), "at": at, "source": source},
    )
    return [row._mapping for row in rows]


async def provenance(
    connection: AsyncConnection, hgnc_id: str, source: str, at: datetime | None
) -> Row | None:
    """Where the value that holds, or held at a time, is from; None where there is no version."""
    held = _HELD.format(columns="v.*", gene=":hgnc_id", source=":source", at=":at")
    row = (
        await connection.execute(
            text(f"""
                SELECT a.value::text AS value, a.valid_from, a.valid_to, a.position, a.matched_by,
                       a.parser_version, a.run_id, a.cause, a.severity, a.release_id,
                       r.version AS release, r.synthetic, r.method, r.sha256 AS release_sha256,
                       r.retrieved_at AS release_retrieved_at, f.name AS file, f.url, f.etag,
                       f.last_modified, f.media_type, f.sha256, f.bytes,
                       f.retrieved_at AS file_retrieved_at, f.removed_at
                FROM ({held}) a
                JOIN annotator.release_v1 r ON r.release_id = a.release_id
                JOIN annotator.release_file_v1 f ON f.file_id = a.file_id
            """),
            {"hgnc_id": hgnc_id, "source": source, "at": at or _NOW},
        )
    ).one_or_none()
    return None if row is None else row._mapping


async def documents_at(
    connection: AsyncConnection, hgnc_ids: Sequence[str], at: datetime
) -> list[Document]:
    """Documents as the cache would have had them at a time, of the genes that there were then."""
    found: dict[str, list[Row]] = {}
    for row in await annotations_at(connection, hgnc_ids, at):
        found.setdefault(row["hgnc_id"], []).append(row)
    return [
        _document(hgnc_id, rows)
        for hgnc_id, rows in found.items()
        if any(row["is_catalogue"] and row["value"] for row in rows)
    ]


def _document(hgnc_id: str, rows: Sequence[Row]) -> Document:
    named = next(row["value"] for row in rows if row["is_catalogue"])
    gene = orjson.loads(named)
    annotations = {
        row["source"]: {
            "status": row["status"],
            "as_of": row["as_of"],
            "value": None if row["value"] is None else orjson.Fragment(row["value"]),
            "release": row["release"],
            "synthetic": row["synthetic"],
            "valid_from": row["valid_from"],
        }
        for row in rows
    }
    document = {"hgnc_id": hgnc_id} | {name: gene[name] for name in _NAMED}
    content = orjson.dumps(document | {"annotations": annotations}).decode()
    return Document(hgnc_id, int(hgnc_id.partition(":")[2]), gene["symbol"], 0, content)


async def list_genes_at(
    connection: AsyncConnection,
    at: datetime,
    after_number: int,
    limit: int,
    among: Sequence[str] | None = None,
) -> list[str]:
    """Genes that were approved at a time, in the order of their numbers; of all genes, or of those
    with the ids `among`."""
    chosen = "" if among is None else "AND g.hgnc_id = ANY(CAST(:among AS text[]))"
    held = _HELD.format(columns="v.value", gene="g.hgnc_id", source="s.name", at=":at")
    rows = await connection.scalars(
        text(f"""
            SELECT g.hgnc_id
            FROM annotator.source_v1 s CROSS JOIN annotator.gene_v1 g
            CROSS JOIN LATERAL ({held}) a
            WHERE s.is_catalogue AND a.value->>'status' = 'approved'
              AND substr(g.hgnc_id, 6)::integer > :after_number {chosen}
            ORDER BY substr(g.hgnc_id, 6)::integer LIMIT :limit
        """),
        {"at": at, "after_number": after_number, "limit": limit}
        | ({} if among is None else {"among": list(among)}),
    )
    return list(rows)


@dataclass(frozen=True)
class Wanted:
    """Which changes somebody wants to see; None: all."""

    hgnc_ids: Sequence[str] | None = None
    sources: Sequence[str] | None = None
    causes: Sequence[str] | None = None
    severities: Sequence[str] | None = None
    release_id: UUID | None = None

    def conditions(self, table: str) -> list[str]:
        """On columns of this table; the parameters bear the columns' names."""
        columns = {"source": self.sources, "cause": self.causes, "severity": self.severities}
        return [
            f"{table}.{column} = ANY(CAST(:{column} AS text[]))"
            for column, chosen in columns.items()
            if chosen is not None
        ]


Place = tuple[int, int]  # A change's transaction and number: the order in which they are told.


async def list_changes(
    connection: AsyncConnection, wanted: Wanted, after: Place, limit: int
) -> list[Row]:
    """What changed behind a place, in order, and nothing that may still get company before it.

    Of a release that is one change, each gene's change is told to who asks for that release.
    """
    conditions = [
        "(c.xid, c.id) > (CAST(CAST(:xid AS text) AS xid8), CAST(:id AS bigint))",
        "c.xid < pg_snapshot_xmin(pg_current_snapshot())",
    ]
    if wanted.hgnc_ids is not None:
        conditions.append("c.hgnc_id = ANY(CAST(:hgnc_ids AS text[]))")
    conditions += wanted.conditions("c")
    rows = await connection.execute(
        text(f"""
            SELECT c.xid::text AS xid, c.id, c.kind, c.hgnc_id, g.symbol, c.source, c.changed_at,
                   c.cause, c.severity, c.before::text AS before, c.after::text AS after,
                   b.version AS release_before, c.release_id, r.version AS release, c.run_id,
                   c.gene_count
            FROM ({_OF_RELEASE if wanted.release_id else "SELECT * FROM annotator.change_v1"}) c
            -- LATERAL with LIMIT: a look-up for each change of the page, and never a whole table.
            LEFT JOIN LATERAL (
                SELECT symbol FROM annotator.gene_v1 WHERE hgnc_id = c.hgnc_id LIMIT 1) g ON true
            LEFT JOIN LATERAL (
                SELECT version FROM annotator.release_v1
                WHERE release_id = c.release_id LIMIT 1) r ON true
            LEFT JOIN LATERAL (
                SELECT version FROM annotator.release_v1
                WHERE release_id = c.release_id_before LIMIT 1) b ON true
            WHERE {" AND ".join(conditions)}
            ORDER BY c.xid, c.id LIMIT :limit
        """),
        {
            "xid": str(after[0]),
            "id": after[1],
            "hgnc_ids": wanted.hgnc_ids,
            "source": wanted.sources,
            "cause": wanted.causes,
            "severity": wanted.severities,
            "release_id": wanted.release_id,
            "limit": limit,
        },
    )
    return [row._mapping for row in rows]


# The values of one release, found by the transactions in which they were stored.
_OF_RELEASE = """
    SELECT a.xid, a.id, 'annotation' AS kind, a.hgnc_id, a.source, a.valid_from AS changed_at,
           a.cause, a.severity, b.value AS before, b.release_id AS release_id_before,
           a.value AS after, a.release_id, a.run_id, 1 AS gene_count
    FROM annotator.release_v1 r
    JOIN annotator.annotation_v1 a ON a.xid >= r.accepted_xid AND a.release_id = r.release_id
        AND (r.stored_xid IS NULL OR a.xid <= r.stored_xid)
    LEFT JOIN LATERAL (
        SELECT * FROM annotator.annotation_v1 b
        WHERE b.hgnc_id = a.hgnc_id AND b.source = a.source AND NOT b.is_current
          AND b.valid_to = a.valid_from LIMIT 1
    ) b ON true
    WHERE r.release_id = :release_id
"""


async def place_of_now(connection: AsyncConnection) -> Place:
    """Behind everything that may be told by now."""
    xid = await connection.scalar(
        text("SELECT pg_snapshot_xmin(pg_current_snapshot())::text::bigint - 1")
    )
    return int(xid or 0), 2**63 - 1


async def list_gene_changes(
    connection: AsyncConnection, hgnc_id: str, wanted: Wanted, after: Place | None, limit: int
) -> list[Row]:
    """Everything that became of one gene's values, the newest first; first values have no cause."""
    conditions = ["v.hgnc_id = :hgnc_id"]
    conditions += wanted.conditions("v")
    versions = " UNION ALL ".join(
        f"SELECT * FROM annotator.annotation_v1 v WHERE {held} AND {' AND '.join(conditions)}"
        for held in ("v.is_current", "NOT v.is_current")
    )
    rows = await connection.execute(
        text(f"""
            SELECT a.xid::text AS xid, a.id, 'annotation' AS kind, a.hgnc_id, g.symbol, a.source,
                   a.valid_from AS changed_at, a.cause, a.severity, b.value::text AS before,
                   a.value::text AS after, p.version AS release_before, a.release_id,
                   r.version AS release, a.run_id, 1 AS gene_count
            FROM ({versions}) a
            LEFT JOIN annotator.gene_v1 g ON g.hgnc_id = a.hgnc_id
            LEFT JOIN LATERAL (
                SELECT * FROM annotator.annotation_v1 b
                WHERE b.hgnc_id = a.hgnc_id AND b.source = a.source AND NOT b.is_current
                  AND b.valid_to = a.valid_from LIMIT 1
            ) b ON true
            LEFT JOIN annotator.release_v1 r ON r.release_id = a.release_id
            LEFT JOIN annotator.release_v1 p ON p.release_id = b.release_id
            WHERE CAST(:xid AS text) IS NULL
               OR (a.xid, a.id) < (CAST(CAST(:xid AS text) AS xid8), CAST(:id AS bigint))
            ORDER BY a.xid DESC, a.id DESC LIMIT :limit
        """),
        {
            "hgnc_id": hgnc_id,
            "source": wanted.sources,
            "cause": wanted.causes,
            "severity": wanted.severities,
            "xid": None if after is None else str(after[0]),
            "id": None if after is None else after[1],
            "limit": limit,
        },
    )
    return [row._mapping for row in rows]


async def list_differences(
    connection: AsyncConnection,
    before: datetime,
    after: datetime,
    sources: Sequence[str] | None,
    behind: tuple[int, str],
    limit: int,
) -> list[Row]:
    """The values that were others at two times, by gene and source. What changed and came back in
    between is none, so two differences in a row are the difference of their ends."""

    def held(at: str) -> str:
        return _HELD.format(
            columns="v.value::text AS value, v.release_id",
            gene="t.hgnc_id",
            source="t.source",
            at=at,
        )

    rows = await connection.execute(
        text(f"""
            WITH touched AS MATERIALIZED (
                SELECT DISTINCT v.hgnc_id, v.source, substr(v.hgnc_id, 6)::integer AS number
                FROM annotator.annotation_v1 v
                WHERE v.valid_from > :before AND v.valid_from <= :after
                  AND (CAST(:sources AS text[]) IS NULL OR v.source = ANY(:sources))
            ), differing AS MATERIALIZED (
                SELECT t.hgnc_id, t.number, t.source, b.value AS before, a.value AS after,
                       b.release_id AS release_id_before, a.release_id
                FROM (
                    -- Put in order before their values are read, so that only a page's are.
                    SELECT * FROM touched
                    WHERE (number, source) > (:number, CAST(:source AS text))
                    ORDER BY number, source OFFSET 0
                ) t
                LEFT JOIN LATERAL ({held(":before")}) b ON true
                LEFT JOIN LATERAL ({held(":after")}) a ON true
                WHERE a.value IS DISTINCT FROM b.value
                ORDER BY t.number, t.source LIMIT :limit
            )
            SELECT d.hgnc_id, d.number, g.symbol, d.source, d.before, d.after,
                   p.version AS release_before, r.version AS release
            FROM differing d
            -- As in D34: of a page, too, the planner may believe that it has one row.
            LEFT JOIN LATERAL (
                SELECT symbol FROM annotator.gene_v1 g WHERE g.hgnc_id = d.hgnc_id LIMIT 1
            ) g ON true
            LEFT JOIN LATERAL (
                SELECT version FROM annotator.release_v1 p
                WHERE p.release_id = d.release_id_before LIMIT 1
            ) p ON true
            LEFT JOIN LATERAL (
                SELECT version FROM annotator.release_v1 r WHERE r.release_id = d.release_id LIMIT 1
            ) r ON true
            ORDER BY d.number, d.source
        """),
        {
            "before": before,
            "after": after,
            "sources": sources,
            "number": behind[0],
            "source": behind[1],
            "limit": limit,
        },
    )
    return [row._mapping for row in rows]


async def end_of_run(connection: AsyncConnection, run_id: UUID) -> Row | None:
    """None where there is no such run; its `finished_at` is None while it goes on."""
    row = (
        await connection.execute(
            text("SELECT state, finished_at FROM annotator.run_v1 WHERE run_id = :run_id"),
            {"run_id": run_id},
        )
    ).one_or_none()
    return None if row is None else row._mapping
