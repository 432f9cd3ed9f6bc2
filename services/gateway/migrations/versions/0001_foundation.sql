CREATE TABLE run (  -- What the user asked; what is true of its execution is annotator.run_v1.
    id uuid PRIMARY KEY DEFAULT uuidv7(),
    name text,
    sources text[] NOT NULL CHECK (sources <> '{}'),
    gene_count integer,  -- NULL: all genes of the catalogue.
    requested_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX run_newest ON run (requested_at DESC, id DESC);

CREATE TABLE idempotency_key (
    key text PRIMARY KEY,
    body_sha256 bytea NOT NULL,
    run_id uuid NOT NULL REFERENCES run,
    created_at timestamptz NOT NULL DEFAULT now()
);
