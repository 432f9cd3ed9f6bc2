CREATE TABLE run (  -- What the user asked; what is true of its execution is annotator.run_v1.
    id uuid PRIMARY KEY DEFAULT uuidv7(),
    name text,
    sources text[] NOT NULL CHECK (sources <> '{}'),
    gene_count integer,  -- NULL: all genes of the catalogue.
    priority text NOT NULL DEFAULT 'normal' CHECK (priority IN ('high', 'normal', 'low')),
    requested_at timestamptz NOT NULL DEFAULT now(),
    desired_state text NOT NULL DEFAULT 'running'
        CHECK (desired_state IN ('running', 'paused', 'cancelled')),
    control_epoch bigint NOT NULL DEFAULT 0,  -- Of the newest control of the run or of a source.
    CHECK (desired_state = 'running' OR control_epoch > 0)
);
CREATE INDEX run_newest ON run (requested_at DESC, id DESC);

CREATE TABLE run_source (  -- What the user asked of one source; without a row: that it runs.
    run_id uuid NOT NULL REFERENCES run,
    source text NOT NULL,
    desired_state text NOT NULL CHECK (desired_state IN ('running', 'paused', 'cancelled')),
    PRIMARY KEY (run_id, source)
);

CREATE TABLE idempotency_key (
    key text PRIMARY KEY,
    body_sha256 bytea NOT NULL,
    run_id uuid NOT NULL REFERENCES run,
    created_at timestamptz NOT NULL DEFAULT now()
);
