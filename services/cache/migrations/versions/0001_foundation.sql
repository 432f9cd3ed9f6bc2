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
    statements text;
BEGIN
    CREATE TEMP TABLE field ON COMMIT DROP AS
    SELECT format('%I', source || '.' || name) AS name, type, CASE type
        WHEN 'text[]' THEN format(
            '(SELECT array_agg(coalesce(one->>''id'', one#>>''{}'')) FROM jsonb_array_elements('
            'CASE jsonb_typeof(%1$s) WHEN ''array'' THEN %1$s END) one)', place)
        ELSE format('(%s #>> ''{}'')::%s', place, type) END AS expression
    FROM (
        SELECT s.name AS source, f.key AS name,
            format('d.annotations->%L->''value''->%L', s.name, f.key) AS place,
            CASE f.value WHEN 'number' THEN 'double precision' WHEN 'integer' THEN 'bigint'
                WHEN 'texts' THEN 'text[]' ELSE f.value END AS type
        FROM annotator.source_v1 s, jsonb_each_text(s.summary_fields) f
    ) declared;

    INSERT INTO field
    SELECT column_name, NULL, CASE column_name
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

    statements := format($statements$
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
    $statements$, names, new_values, assignments);
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
    IF changes IS NOT NULL THEN
        EXECUTE 'ALTER TABLE gene_summary ' || changes;
    END IF;
    EXECUTE statements;
    EXECUTE format('COMMENT ON FUNCTION summarise(text[]) IS %L', md5(statements));
    PERFORM summarise(array_agg(hgnc_id)) FROM gene HAVING count(*) > 0;
    RETURN true;
END
$shape$;

CREATE TABLE dirty_gene (
    hgnc_id text PRIMARY KEY
);

CREATE TABLE namespace (
    namespace text PRIMARY KEY,
    epoch bigint NOT NULL DEFAULT 0,
    invalidated_at timestamptz
);
INSERT INTO namespace (namespace) VALUES ('genes');

CREATE VIEW gene_v1 AS
SELECT hgnc_id, version, document, status, annotated_by, listed_at FROM gene;

CREATE VIEW namespace_v1 AS SELECT namespace, epoch, invalidated_at FROM namespace;

GRANT USAGE ON SCHEMA cache TO gateway;
GRANT SELECT ON gene_v1, namespace_v1 TO gateway;
