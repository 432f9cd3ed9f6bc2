CREATE TABLE gene (
    hgnc_id text PRIMARY KEY,
    version bigint NOT NULL,  -- Grows only when the bytes of the document change.
    -- Not compressed: it is read far more often than it is written.
    document json STORAGE EXTERNAL NOT NULL,
    status text NOT NULL CHECK (status IN ('approved', 'withdrawn', 'merged')),
    annotated_by text[] NOT NULL DEFAULT '{}',  -- Sources with an annotation in the document.
    listed_at timestamptz NOT NULL DEFAULT '-infinity'
) WITH (
    -- A document lies in its row up to a page, and a rebuilt one beside it: two indexes fewer to write.
    toast_tuple_target = 8160, fillfactor = 70
);

-- What genes are filtered and sorted by. All of them are read in milliseconds, so that no field of a
-- source has an index, and a changed value is written beside the one before. `annobus migrate` adds a
-- column for each summary field of each source, and makes what reads and writes them.
CREATE TABLE gene_summary (
    hgnc_id text PRIMARY KEY,
    hgnc_number integer NOT NULL,
    symbol text NOT NULL,
    status text NOT NULL,
    name text,
    locus_group text,
    locus_type text,
    location text,
    entrez_id text,
    ensembl_gene_id text,
    sources text[] NOT NULL,  -- Those with a value.
    annotation_count integer NOT NULL
) WITH (fillfactor = 80);
CREATE INDEX gene_in_order ON gene_summary (hgnc_number) WHERE status = 'approved';
CREATE INDEX gene_by_symbol ON gene_summary (symbol, hgnc_number) WHERE status = 'approved';
CREATE INDEX gene_by_part_of_name ON gene_summary USING gin (lower(name) public.gin_trgm_ops);

-- Gives summaries the fields that sources declare, each under the name that clients use, such as
-- "gnomad.loeuf"; a retired source keeps its fields, as it keeps its values. What is in a summary is
-- read from the gene's document, so that the two agree. Returns whether anything was another.
CREATE FUNCTION shape_summaries() RETURNS boolean
LANGUAGE plpgsql SET search_path = cache, pg_temp AS $shape$
DECLARE
    names text;  -- Of all columns beside the id, with a comma before each.
    new_values text;
    assignments text;
    changes text;
    measured text;
    statements text;
BEGIN
    CREATE TEMP TABLE field ON COMMIT DROP AS
    SELECT source, key, format('%I', source || '.' || key) AS name, type, CASE type
        WHEN 'text[]' THEN format(
            '(SELECT array_agg(coalesce(one->>''id'', one#>>''{}'')) FROM jsonb_array_elements('
            'CASE jsonb_typeof(%1$s) WHEN ''array'' THEN %1$s END) one)', place)
        ELSE format('(%s #>> ''{}'')::%s', place, type) END AS expression
    FROM (
        SELECT s.name AS source, f.key,
            format('d.annotations->%L->''value''->%L', s.name, f.key) AS place,
            CASE f.value WHEN 'number' THEN 'double precision' WHEN 'integer' THEN 'bigint'
                WHEN 'texts' THEN 'text[]' ELSE f.value END AS type
        FROM annotator.source_v1 s, jsonb_each_text(s.summary_fields) f
    ) declared;

    INSERT INTO field
    SELECT NULL, NULL, column_name, NULL, CASE column_name
        WHEN 'hgnc_number' THEN 'substr(g.hgnc_id, 6)::integer' WHEN 'sources' THEN 'd.sources'
        WHEN 'annotation_count' THEN 'cardinality(d.sources)'
        ELSE format('d.document->>%L', column_name) END
    FROM information_schema.columns
    WHERE table_schema = 'cache' AND table_name = 'gene_summary'
        AND column_name <> 'hgnc_id' AND strpos(column_name, '.') = 0;

    SELECT string_agg(', ' || name, '' ORDER BY type IS NOT NULL, name),
        string_agg(', ' || expression, '' ORDER BY type IS NOT NULL, name),
        string_agg(format('%s = excluded.%s', name, name), ', ' ORDER BY name)
    INTO names, new_values, assignments FROM field;

    -- A row for each field that is a number; none of them is a fact about genes that were withdrawn.
    SELECT coalesce(string_agg(format($measured$
            SELECT %L AS source, %L AS field, count(%3$s) AS known_count,
                avg(%3$s)::float8 AS mean,
                percentile_cont(0.5) WITHIN GROUP (ORDER BY %3$s)::float8 AS median,
                min(%3$s)::float8 AS least, max(%3$s)::float8 AS greatest
            FROM gene_summary WHERE status = 'approved'
        $measured$, source, key, name), ' UNION ALL ' ORDER BY name), $nothing$
            SELECT ''::text AS source, ''::text AS field, 0::bigint AS known_count,
                NULL::float8 AS mean, NULL::float8 AS median, NULL::float8 AS least,
                NULL::float8 AS greatest WHERE false
        $nothing$) INTO measured
    FROM field WHERE type IN ('double precision', 'bigint');

    statements := format($statements$
        CREATE MATERIALIZED VIEW field_statistics AS %4$s;
        CREATE UNIQUE INDEX field_statistics_key ON field_statistics (source, field);
        GRANT MAINTAIN ON field_statistics TO cache;
        CREATE VIEW field_statistics_v1 AS
        SELECT source, field, known_count, mean, median, least, greatest FROM field_statistics;
        GRANT SELECT ON field_statistics_v1 TO gateway;
        CREATE VIEW gene_summary_v1 AS SELECT hgnc_id%1$s FROM gene_summary;
        GRANT SELECT ON gene_summary_v1 TO gateway;
        CREATE OR REPLACE FUNCTION summarise(hgnc_ids text[]) RETURNS void
        LANGUAGE sql SET search_path = cache AS $summarise$
            INSERT INTO gene_summary (hgnc_id%1$s)
            SELECT g.hgnc_id%2$s
            FROM gene g CROSS JOIN LATERAL (  -- OFFSET: a document is parsed once.
                SELECT document, document->'annotations' AS annotations, ARRAY(
                    SELECT key FROM jsonb_each(document->'annotations')
                    WHERE value->'value' <> 'null' ORDER BY key) AS sources
                FROM (SELECT g.document::jsonb AS document OFFSET 0) parsed OFFSET 0) d
            WHERE g.hgnc_id = ANY (hgnc_ids)
            ON CONFLICT (hgnc_id) DO UPDATE SET %3$s
            WHERE (gene_summary.*) IS DISTINCT FROM (excluded.*)
        $summarise$;
    $statements$, names, new_values, assignments, measured);
    IF md5(statements) = obj_description(to_regprocedure('summarise(text[])'), 'pg_proc') THEN
        RETURN false;  -- Nothing is locked.
    END IF;

    WITH present AS (
        SELECT format('%I', attname) AS name, format_type(atttypid, atttypmod) AS type
        FROM pg_attribute WHERE attrelid = 'gene_summary'::regclass
            AND attnum > 0 AND NOT attisdropped AND strpos(attname, '.') > 0
    )
    SELECT string_agg(change, ', ') INTO changes FROM (
        SELECT 'DROP COLUMN ' || present.name FROM present
        WHERE NOT EXISTS (SELECT FROM field f WHERE f.name = present.name AND f.type = present.type)
        UNION ALL
        SELECT format('ADD COLUMN %s %s', f.name, f.type) FROM field f
        WHERE f.type IS NOT NULL
            AND NOT EXISTS (SELECT FROM present p WHERE p.name = f.name AND p.type = f.type)
    ) AS needed (change);
    DROP VIEW IF EXISTS gene_summary_v1;
    DROP MATERIALIZED VIEW IF EXISTS field_statistics CASCADE;
    IF changes IS NOT NULL THEN
        EXECUTE 'ALTER TABLE gene_summary ' || changes;
    END IF;
    EXECUTE statements;
    EXECUTE format('COMMENT ON FUNCTION summarise(text[]) IS %L', md5(statements));
    PERFORM summarise(array_agg(hgnc_id)) FROM gene HAVING count(*) > 0;
    RETURN true;
END
$shape$;

-- Made anew when documents are, off the way of who reads; `annobus migrate` makes the one of fields.
CREATE MATERIALIZED VIEW source_statistics AS
SELECT c.source, count(*) AS gene_count, count(c.value) AS annotation_count,
    count(*) FILTER (WHERE c.value IS NULL AND c.status IN ('empty', 'stale')) AS no_data_count,
    count(*) FILTER (WHERE c.status = 'pending') AS pending_count,
    count(*) FILTER (WHERE c.status = 'error') AS error_count,
    count(*) FILTER (WHERE c.status = 'stale') AS stale_count,
    min(c.checked_at) AS oldest_checked_at, max(c.checked_at) AS newest_checked_at,
    now() AS as_of
FROM annotator.current_annotation_v1 c
JOIN annotator.gene_v1 g ON g.hgnc_id = c.hgnc_id AND g.status = 'approved'
GROUP BY c.source;
CREATE UNIQUE INDEX source_statistics_key ON source_statistics (source);

-- How many genes have a value of exactly these sources.
CREATE MATERIALIZED VIEW overlap AS
SELECT sources, count(*) AS gene_count FROM gene_summary WHERE status = 'approved' GROUP BY sources;
CREATE UNIQUE INDEX overlap_key ON overlap (sources);
GRANT MAINTAIN ON source_statistics, overlap, gene_summary TO cache;

CREATE SEQUENCE document_change;  -- Grows when statistics may be others.
SELECT setval('document_change', 1);  -- Its first value is not told apart from none.
GRANT SELECT ON document_change TO cache;
CREATE TABLE statistics_made (
    is_only boolean PRIMARY KEY DEFAULT true CHECK (is_only),
    change bigint NOT NULL DEFAULT 0,  -- That they include.
    at timestamptz NOT NULL DEFAULT '-infinity'
);
INSERT INTO statistics_made DEFAULT VALUES;

CREATE TABLE dirty_gene (
    hgnc_id text PRIMARY KEY
);

-- What is forgotten together. `epoch` counts what was invalidated of it, parts or all; `floor` is the
-- epoch below which nothing is valid. `genes` are the documents; the others hold entries, which have a
-- time to live. Counts are those of the reclaimer's last round, less what it has deleted since.
CREATE TABLE namespace (
    namespace text PRIMARY KEY,
    epoch bigint NOT NULL DEFAULT 0,
    floor bigint NOT NULL DEFAULT 0,
    invalidated_at timestamptz,
    ttl interval,
    negative_ttl interval,  -- Of what is known not to be there.
    entry_bytes_max integer,
    entries_max integer,
    entry_count bigint NOT NULL DEFAULT 0,
    entry_bytes bigint NOT NULL DEFAULT 0,
    reclaimable_count bigint NOT NULL DEFAULT 0,
    reclaimed_count bigint NOT NULL DEFAULT 0,  -- Since there is this namespace.
    oldest_at timestamptz,
    newest_at timestamptz,
    counted_at timestamptz,
    CHECK (floor <= epoch),
    CHECK (num_nulls(ttl, negative_ttl, entry_bytes_max, entries_max) IN (0, 4)),
    CHECK (ttl > interval '0' AND negative_ttl > interval '0' AND negative_ttl <= ttl),
    CHECK (entry_bytes_max BETWEEN 1 AND 16777216 AND entries_max > 0)
) WITH (fillfactor = 50);
INSERT INTO namespace (namespace, ttl, negative_ttl, entry_bytes_max, entries_max) VALUES
    ('genes', NULL, NULL, NULL, NULL),
    ('statistics', '10 minutes', '10 seconds', 1048576, 1000),
    ('lists', '1 minute', '10 seconds', 1048576, 10000),
    ('facets', '1 minute', '10 seconds', 262144, 10000),
    ('resolutions', '1 hour', '10 seconds', 262144, 100000);

-- The last time that a part of a namespace was invalidated. When a row goes, the floor is raised to
-- its epoch.
CREATE TABLE invalidation (
    namespace text NOT NULL,
    part text NOT NULL,
    epoch bigint NOT NULL,
    at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (namespace, part)
);

-- What gateways have computed and may compute again, so that it is worth no write-ahead log; after a
-- crash it is empty. `epoch` is what its maker knew before it read anything. Valid is what is not
-- below the floor, depends on no part that was invalidated at a greater epoch, and has not expired.
--
-- It has no index but its key: what is to go is found by walking through its pages, so that dead
-- entries of an index are in nobody's way. Its end is not cut off: that locks out readers.
CREATE UNLOGGED TABLE entry (
    namespace text NOT NULL,
    key text NOT NULL,
    epoch bigint NOT NULL,
    parts text[] NOT NULL,  -- Its own key among them.
    value bytea STORAGE EXTERNAL,  -- NULL: it is known that there is nothing.
    bytes integer NOT NULL,
    made_at timestamptz NOT NULL,  -- Before anything was read for it.
    expires_at timestamptz NOT NULL,
    PRIMARY KEY (namespace, key)
) WITH (vacuum_truncate = false, autovacuum_vacuum_scale_factor = 0.05);

-- How often entries and documents were asked for, of all gateways together. Counted anew after a
-- crash.
CREATE UNLOGGED TABLE reads (
    namespace text NOT NULL,
    outcome text NOT NULL,
    count bigint NOT NULL,
    PRIMARY KEY (namespace, outcome)
) WITH (fillfactor = 50);

CREATE VIEW gene_v1 AS
SELECT hgnc_id, version, document, status, annotated_by, listed_at FROM gene;

CREATE VIEW namespace_v1 AS
SELECT namespace, epoch, floor, invalidated_at,
    extract(epoch FROM ttl)::float8 AS ttl_seconds,
    extract(epoch FROM negative_ttl)::float8 AS negative_ttl_seconds,
    entry_bytes_max, entries_max, entry_count, entry_bytes, reclaimable_count, reclaimed_count,
    oldest_at, newest_at, counted_at,
    CASE WHEN namespace = 'genes' THEN (SELECT count(*) FROM dirty_gene) END AS dirty_count
FROM namespace;

CREATE VIEW entry_v1 AS
SELECT e.namespace, e.key, e.epoch, e.value, e.made_at, e.expires_at
FROM entry e JOIN namespace n USING (namespace)
WHERE e.epoch >= n.floor AND e.expires_at > now()
    AND NOT EXISTS (SELECT FROM invalidation i WHERE i.namespace = e.namespace
        AND i.part = ANY (e.parts) AND i.epoch > e.epoch);

CREATE VIEW source_statistics_v1 AS
SELECT source, gene_count, annotation_count, no_data_count, pending_count, error_count,
    stale_count, oldest_checked_at, newest_checked_at, as_of
FROM source_statistics;

CREATE VIEW overlap_v1 AS SELECT sources, gene_count FROM overlap;

CREATE VIEW reads_v1 AS SELECT namespace, outcome, count FROM reads;

-- Keeps what a gateway has computed for others; `seen` is the epoch that it knew at `began`, before it
-- read anything. Returns whether it is kept: not when a part was invalidated since, when a newer one is
-- there, or when it is too large. It may be invalidated before this is committed, so readers look again.
CREATE FUNCTION put_entry_v1(
    space text, name text, seen bigint, began timestamptz, depends_on text[], content bytea
) RETURNS boolean
LANGUAGE sql SECURITY DEFINER SET search_path = cache, pg_temp AS $put_entry$
    WITH offered AS (
        SELECT depends_on || ('key=' || name) AS parts, least(began, now()) AS began,
            coalesce(octet_length(content), 0) + octet_length(name)
                + octet_length(array_to_string(depends_on, '')) AS bytes
    ), kept AS (
        INSERT INTO entry (namespace, key, epoch, parts, value, bytes, made_at, expires_at)
        SELECT namespace, name, seen, o.parts, content, o.bytes, o.began,
            o.began + CASE WHEN content IS NULL THEN negative_ttl ELSE ttl END
        FROM namespace n CROSS JOIN offered o
        WHERE namespace = space AND seen BETWEEN floor AND epoch AND o.bytes <= entry_bytes_max
            AND octet_length(name) <= 1000
            -- The reclaimer keeps to the limit, and may be late.
            AND entry_count < 2 * entries_max
            AND NOT EXISTS (SELECT FROM invalidation i
                WHERE i.namespace = space AND i.part = ANY (o.parts) AND i.epoch > seen)
        ON CONFLICT (namespace, key) DO UPDATE SET
            epoch = excluded.epoch, parts = excluded.parts, value = excluded.value,
            bytes = excluded.bytes, made_at = excluded.made_at, expires_at = excluded.expires_at
        WHERE (entry.epoch, entry.made_at) <= (excluded.epoch, excluded.made_at)
        RETURNING 1
    )
    SELECT EXISTS (SELECT FROM kept)
$put_entry$;

-- Adds what a gateway has counted since it did so last.
CREATE FUNCTION count_reads_v1(spaces text[], outcomes text[], counts bigint[]) RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path = cache, pg_temp AS $count_reads$
    INSERT INTO reads AS r (namespace, outcome, count)
    SELECT * FROM unnest(spaces, outcomes, counts) AS counted (namespace, outcome, count)
    WHERE count > 0 AND outcome IN ('hit', 'shared', 'miss', 'stale', 'made', 'failed', 'refused')
        AND counted.namespace IN (SELECT namespace FROM namespace)
    ORDER BY 1, 2
    ON CONFLICT (namespace, outcome) DO UPDATE SET count = r.count + excluded.count
$count_reads$;

REVOKE EXECUTE ON FUNCTION put_entry_v1, count_reads_v1 FROM PUBLIC;
GRANT USAGE ON SCHEMA cache TO gateway;
GRANT SELECT ON gene_v1, namespace_v1, entry_v1, reads_v1, source_statistics_v1, overlap_v1 TO gateway;
GRANT EXECUTE ON FUNCTION put_entry_v1, count_reads_v1 TO gateway;
