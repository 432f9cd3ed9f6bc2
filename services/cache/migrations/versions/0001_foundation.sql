CREATE TABLE gene (
    hgnc_id text PRIMARY KEY,
    hgnc_number integer GENERATED ALWAYS AS (substr(hgnc_id, 6)::integer) STORED,
    symbol text NOT NULL,
    version bigint NOT NULL,  -- Grows only when the bytes of the document change.
    -- Not compressed: it is read far more often than it is written.
    document json STORAGE EXTERNAL NOT NULL,
    status text NOT NULL CHECK (status IN ('approved', 'withdrawn', 'merged')),
    name text,
    locus_group text,
    locus_type text,
    entrez_id text,
    ensembl_gene_id text,
    annotation_count integer NOT NULL,
    annotated_by text[] NOT NULL DEFAULT '{}',  -- Sources with an annotation in the document.
    listed_at timestamptz NOT NULL DEFAULT '-infinity'
) WITH (
    -- A document lies in its row up to a page, and a rebuilt one beside it: four indexes fewer to write.
    toast_tuple_target = 8160, fillfactor = 70
);
CREATE INDEX gene_in_order ON gene (hgnc_number) WHERE status = 'approved';
CREATE INDEX gene_by_symbol ON gene (symbol, hgnc_number) WHERE status = 'approved';

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
SELECT hgnc_id, hgnc_number, symbol, version, document, status, name, locus_group, locus_type,
       entrez_id, ensembl_gene_id, annotation_count, annotated_by, listed_at
FROM gene;

CREATE VIEW namespace_v1 AS SELECT namespace, epoch, invalidated_at FROM namespace;

GRANT USAGE ON SCHEMA cache TO gateway;
GRANT SELECT ON gene_v1, namespace_v1 TO gateway;
