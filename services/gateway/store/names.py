"""Finding genes by what people call them: one rule, whoever asks."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import orjson
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from services.chassis import database
from services.gateway.domain import Member, Named, Refused, Resolved, fold
from services.gateway.spellings import Damage, damaged

REFUSED_MAX = 1_000  # Refused genes that one error names; it says how many there are.
SHORT_LIST_MAX = 10_000  # Values; more may take longer than a transaction has on a busy machine.
VALUES_PER_SLICE = 500  # Read on the loop in one go: less than a millisecond.

# What a row of the answer may be marked with, and what that means.
FLAGS: Final[Mapping[str, str]] = {
    "case_differs": "the name is written with other small or capital letters",
    "name_shared": "other genes have the name too, with less right to it; see the candidates",
    "ensembl_gene_id_shared": "the gene's Ensembl id is that of other genes as well",
    "spreadsheet_date": "a date, as spreadsheets make them of symbols; never resolved",
    "dots_for_hyphens": "with hyphens for the dots it would be a name; never resolved",
}
_NOTES: Final[Mapping[Damage, str]] = {
    "spreadsheet_date": "this is a date: a spreadsheet may have made it of a gene symbol",
    "dots_for_hyphens": "the dots may have been hyphens",
}

# A text is an HGNC id with its prefix, an Ensembl gene id with or without prefix and version, an
# Entrez id with or without prefix, so a bare number is one, or else a name. Of the genes that it
# names those count that have most right to it, by `rank`: an approved symbol in these letters,
# then in others, a previous symbol, an alias, and last (4) what is withdrawn, for which its
# approved successors stand. One gene is an answer, several are none.
#
# Each value is looked up by itself, by index: LATERAL with LIMIT, so that no statistics can make
# a join of it that reads a table for each value.
_ANSWERED = """
    WITH asked AS MATERIALIZED (
        SELECT place - 1 AS place, value, name, folded, damage, guesses, CASE
            WHEN folded ~ '^(hgnc:){1,2}[0-9]{1,9}$' THEN 'hgnc_id'
            WHEN folded ~ '^((ncbigene|entrez|geneid):)?[0-9]{1,12}$' THEN 'entrez_id'
            WHEN folded ~ '^(ensembl:)?ensg[0-9]{11}([.][0-9]{1,3})?$' THEN 'ensembl_gene_id'
            ELSE 'name' END AS kind
        FROM unnest(CAST(:values AS text[]), CAST(:names AS text[]), CAST(:damages AS text[]),
                    CAST(:guesses AS text[]))
            WITH ORDINALITY AS given (value, name, damage, guesses, place)
        CROSS JOIN lower(name) AS folded
    ), answered AS MATERIALIZED (
        SELECT a.place, a.value, o.outcome, found.genes->0->>'matched_by' AS matched_by,
            CASE WHEN o.outcome <> 'resolved' THEN NULL
                 WHEN found.rank < 4 THEN found.genes->0 ELSE heirs.genes->0 END AS gene,
            CASE WHEN o.outcome = 'resolved' AND found.rank = 4 THEN found.genes
                 END AS succeeded,
            CASE WHEN o.outcome = 'unknown' THEN guessed.genes
                 WHEN o.outcome = 'ambiguous' AND found.rank = 4
                     THEN heirs.genes || CASE WHEN heirs.succeeded_count < found.best_count
                                         THEN found.genes ELSE '[]' END
                 WHEN o.outcome <> 'resolved' OR jsonb_array_length(found.genes) > 1
                     AND found.rank < 4 THEN found.genes END AS candidates,
            CASE WHEN o.outcome <> 'unknown' THEN NULL
                 WHEN a.damage = 'spreadsheet_date' OR guessed.genes IS NOT NULL
                     THEN a.damage END AS damage,
            found.genes->0->>'name' <> a.name AS case_differs,
            o.outcome = 'resolved' AND found.rank < 4 AND found.named_count > 1 AS name_shared
        FROM asked a CROSS JOIN LATERAL (
            SELECT min(lowest) AS rank, count(*) FILTER (WHERE rank = lowest) AS best_count,
                   count(*) FILTER (WHERE rank < 4) AS named_count,
                   jsonb_agg(jsonb_build_object('hgnc_id', hgnc_id, 'symbol', symbol,
                       'matched_by', matched_by, 'name', name)
                       ORDER BY rank, length(hgnc_id), hgnc_id)
                       FILTER (WHERE rank < 4 OR lowest = 4) AS genes
            FROM (SELECT *, min(rank) OVER () AS lowest FROM (
                SELECT DISTINCT ON (hgnc_id) * FROM (
                    SELECT g.hgnc_id, g.symbol, a.kind AS matched_by, NULL AS name,
                           CASE g.status WHEN 'approved' THEN 0 ELSE 4 END AS rank
                    FROM annotator.gene_v1 g WHERE a.kind = 'hgnc_id'
                        AND g.hgnc_id = 'HGNC:' || substring(a.folded FROM '[0-9]+$')
                    UNION ALL
                    SELECT g.hgnc_id, g.symbol, a.kind, NULL,
                           CASE g.status WHEN 'approved' THEN 0 ELSE 4 END
                    FROM annotator.gene_v1 g WHERE a.kind = 'entrez_id'
                        AND g.entrez_id = substring(a.folded FROM '[0-9]+$')
                    UNION ALL
                    SELECT g.hgnc_id, g.symbol, a.kind, NULL,
                           CASE g.status WHEN 'approved' THEN 0 ELSE 4 END
                    FROM annotator.gene_v1 g WHERE a.kind = 'ensembl_gene_id'
                        AND g.ensembl_gene_id = upper(substring(a.folded FROM 'ensg[0-9]{11}'))
                    UNION ALL
                    SELECT g.hgnc_id, g.symbol, n.kind, n.name, CASE
                        WHEN g.status <> 'approved' THEN 4
                        WHEN n.kind = 'approved' AND n.name = a.name THEN 0
                        WHEN n.kind = 'approved' THEN 1
                        WHEN n.kind = 'previous' THEN 2
                        ELSE 3 END
                    FROM annotator.gene_name_v1 n CROSS JOIN LATERAL (
                        SELECT * FROM annotator.gene_v1 WHERE hgnc_id = n.hgnc_id LIMIT 1) g
                    -- HGNC lists Ensembl ids that were given up as aliases.
                    WHERE a.kind IN ('name', 'ensembl_gene_id') AND n.folded = a.folded
                        -- Oct-4 is a date, and OCT-4 is an alias.
                        AND (a.damage IS DISTINCT FROM 'spreadsheet_date' OR n.name = a.name)
                ) every_name ORDER BY hgnc_id, rank, name <> a.name, name
            ) every_gene) ranked
        ) found
        CROSS JOIN LATERAL (
            WITH RECURSIVE line AS (  -- UNION, so that a circle of successors ends.
                SELECT item->>'hgnc_id' AS withdrawn, item->>'hgnc_id' AS hgnc_id
                FROM jsonb_array_elements(found.genes) AS gone (item) WHERE found.rank = 4
                UNION
                SELECT line.withdrawn, unnest(g.successors)
                FROM line CROSS JOIN LATERAL (SELECT * FROM annotator.gene_v1
                    WHERE hgnc_id = line.hgnc_id AND status <> 'approved' LIMIT 1) g
            )
            SELECT count(DISTINCT withdrawn) AS succeeded_count,
                   count(*) FILTER (WHERE is_first) AS heir_count,
                   jsonb_agg(jsonb_build_object('hgnc_id', hgnc_id, 'symbol', symbol,
                       'matched_by', 'successor', 'name', NULL) ORDER BY length(hgnc_id), hgnc_id)
                       FILTER (WHERE is_first) AS genes
            FROM (
                SELECT line.withdrawn, g.hgnc_id, g.symbol,
                       row_number() OVER (PARTITION BY g.hgnc_id) = 1 AS is_first
                FROM line CROSS JOIN LATERAL (SELECT * FROM annotator.gene_v1
                    WHERE hgnc_id = line.hgnc_id AND status = 'approved' LIMIT 1) g
            ) heir
        ) heirs
        CROSS JOIN LATERAL (SELECT CASE
            WHEN found.best_count = 0 THEN 'unknown'
            WHEN found.rank < 4 AND found.best_count = 1 THEN 'resolved'
            WHEN found.rank < 4 THEN 'ambiguous'
            WHEN heirs.heir_count = 0 THEN 'withdrawn'
            WHEN heirs.heir_count = 1 AND heirs.succeeded_count = found.best_count THEN 'resolved'
            ELSE 'ambiguous' END AS outcome
        ) o
        CROSS JOIN LATERAL (
            SELECT jsonb_agg(jsonb_build_object('hgnc_id', hgnc_id, 'symbol', symbol,
                       'matched_by', kind, 'name', name)
                       ORDER BY rank, length(hgnc_id), hgnc_id) AS genes
            FROM (
                SELECT DISTINCT ON (n.hgnc_id) n.hgnc_id, g.symbol, n.kind, n.name,
                       array_position(ARRAY['approved', 'previous', 'alias'], n.kind) AS rank
                FROM unnest(string_to_array(a.guesses, '|')) guess CROSS JOIN LATERAL (
                    SELECT * FROM annotator.gene_name_v1 WHERE folded = guess OFFSET 0) n
                CROSS JOIN LATERAL (SELECT * FROM annotator.gene_v1
                    WHERE hgnc_id = n.hgnc_id AND status = 'approved' LIMIT 1) g
                WHERE o.outcome = 'unknown'
                ORDER BY n.hgnc_id, rank, n.name
            ) guess
        ) guessed
    )
"""

_REFUSED = """, refused AS (
    SELECT place, value, outcome, coalesce((
        SELECT jsonb_agg(jsonb_build_object(
            'hgnc_id', item->'hgnc_id', 'symbol', item->'symbol'))
        FROM jsonb_array_elements(candidates) AS candidate (item)), '[]') AS genes
    FROM answered WHERE outcome <> 'resolved' ORDER BY place LIMIT :refused_max
)
"""
_REFUSALS = """
    (SELECT coalesce(jsonb_agg(to_jsonb(refused) ORDER BY place), '[]') FROM refused)::text
        AS refused,
    (SELECT count(*) FROM answered WHERE outcome <> 'resolved') AS refused_count,
    NOT EXISTS (SELECT FROM annotator.gene_v1) AS catalogue_empty
"""


@dataclass(frozen=True)
class Answers:
    """One answer for each value. `rows` is a JSON array of resources that nothing here parses."""

    rows: str
    counts: Sequence[tuple[str, str | None, int]]  # Outcome, matched by, values.
    catalogue_empty: bool


@dataclass(frozen=True)
class ResolvedEach:
    """The genes in the order of the values that name them, each with its place among them."""

    members: Sequence[tuple[int, Member]]
    refused: Sequence[Refused]
    catalogue_empty: bool


async def resolve(
    connection: AsyncConnection, values: Sequence[str], refused_max: int = REFUSED_MAX
) -> Resolved:
    """The genes that these values name, and the first of the values that are not one gene alone."""
    row = (
        await connection.execute(
            text(f"""
                {_ANSWERED}{_REFUSED}
                SELECT ARRAY(SELECT DISTINCT gene->>'hgnc_id' FROM answered
                             WHERE outcome = 'resolved' ORDER BY 1) AS hgnc_ids,
                       ARRAY(SELECT DISTINCT item->>'hgnc_id'
                             FROM answered, jsonb_array_elements(succeeded) AS gone (item)
                             ORDER BY 1) AS succeeded,
                       {_REFUSALS}
            """),
            await _prepare(connection, values) | {"refused_max": refused_max},
        )
    ).one()
    return Resolved(
        hgnc_ids=row.hgnc_ids,
        succeeded=row.succeeded,
        refused=_refused(row.refused),
        refused_count=row.refused_count,
        catalogue_empty=row.catalogue_empty,
    )


async def resolve_each(connection: AsyncConnection, values: Sequence[str]) -> ResolvedEach:
    """The gene that each of these values names, and all values that are not one gene alone."""
    row = (
        await connection.execute(
            text(f"""
                {_ANSWERED}{_REFUSED}
                SELECT ARRAY(SELECT json_agg(json_build_array(
                                 place, gene->>'hgnc_id', gene->>'symbol') ORDER BY place)::text
                             FROM answered WHERE outcome = 'resolved'
                             GROUP BY place / {VALUES_PER_SLICE} ORDER BY min(place)) AS resolved,
                       {_REFUSALS}
            """),
            await _prepare(connection, values) | {"refused_max": len(values)},
        )
    ).one()
    members: list[tuple[int, Member]] = []
    for part in row.resolved:
        members += [
            (place, Member(hgnc_id, values[place], symbol))
            for place, hgnc_id, symbol in orjson.loads(part)
        ]
        await asyncio.sleep(0)
    return ResolvedEach(
        members=members,
        refused=_refused(row.refused),
        catalogue_empty=row.catalogue_empty,
    )


async def answer_each(connection: AsyncConnection, values: Sequence[str]) -> Answers:
    """What each of these values names, in their order."""
    row = (
        await connection.execute(
            text(f"""
                {_ANSWERED}, counted AS (
                    SELECT outcome, matched_by, count(*) AS count
                    FROM answered GROUP BY outcome, matched_by
                )
                SELECT (
                    SELECT coalesce(json_agg(json_build_object(
                        'type', 'resolutions', 'id', place::text, 'attributes', json_build_object(
                            'value', value, 'outcome', outcome, 'hgnc_id', gene->'hgnc_id',
                            'symbol', gene->'symbol', 'matched_by', matched_by,
                            'successor_of', coalesce(
                                jsonb_path_query_array(succeeded, '$[*].hgnc_id'), '[]'),
                            'candidates', coalesce(candidates, '[]'),
                            'flags', array_remove(ARRAY[
                                CASE WHEN case_differs THEN 'case_differs' END,
                                CASE WHEN name_shared THEN 'name_shared' END,
                                CASE WHEN shares.ensembl_gene_id THEN 'ensembl_gene_id_shared' END,
                                damage], NULL),
                            'note', CAST(:notes AS jsonb)->damage)) ORDER BY place), '[]')
                    FROM answered CROSS JOIN LATERAL (
                        SELECT EXISTS (
                            SELECT FROM (SELECT * FROM annotator.gene_v1
                                WHERE hgnc_id = gene->>'hgnc_id' LIMIT 1) g
                            CROSS JOIN LATERAL (SELECT FROM annotator.gene_v1 other
                                WHERE other.ensembl_gene_id = g.ensembl_gene_id
                                AND other.hgnc_id <> g.hgnc_id AND other.status = 'approved'
                                LIMIT 1) other) AS ensembl_gene_id
                    ) shares
                )::text AS rows,
                (SELECT coalesce(jsonb_agg(to_jsonb(counted)), '[]') FROM counted)::text AS counts,
                NOT EXISTS (SELECT FROM annotator.gene_v1) AS catalogue_empty
            """),
            await _prepare(connection, values) | {"notes": orjson.dumps(_NOTES).decode()},
        )
    ).one()
    return Answers(
        rows=row.rows,
        counts=[
            (item["outcome"], item["matched_by"], item["count"])
            for item in orjson.loads(row.counts)
        ],
        catalogue_empty=row.catalogue_empty,
    )


async def _prepare(connection: AsyncConnection, values: Sequence[str]) -> dict[str, Any]:
    """The values as the statement takes them, read in slices that leave the loop to others."""
    if len(values) > SHORT_LIST_MAX:
        await database.allow_long_transaction(connection)
    names: list[str] = []
    damages: list[str | None] = []
    guesses: list[str | None] = []
    for start in range(0, len(values), VALUES_PER_SLICE):
        for value in values[start : start + VALUES_PER_SLICE]:
            found = damaged(fold(value))
            names.append(value.strip())
            damages.append(None if found is None else found.damage)
            guesses.append(None if found is None else "|".join(found.names))
        await asyncio.sleep(0)
    return {"values": list(values), "names": names, "damages": damages, "guesses": guesses}


def _refused(rows: str) -> Sequence[Refused]:
    return [
        Refused(
            place=item["place"],
            value=item["value"],
            outcome=item["outcome"],
            genes=[Named(**gene) for gene in item["genes"]],
        )
        for item in orjson.loads(rows)
    ]
