CREATE TABLE panel (  -- A list of genes that people keep; what is on it, its versions say.
    id uuid PRIMARY KEY DEFAULT uuidv7(),
    name text NOT NULL,
    description text,
    created_at timestamptz NOT NULL DEFAULT now(),
    created_by text,
    archived_at timestamptz
);
CREATE UNIQUE INDEX panel_name ON panel (lower(name)) WHERE archived_at IS NULL;

CREATE TABLE panel_version (
    panel_id uuid NOT NULL REFERENCES panel,
    version integer NOT NULL CHECK (version >= 1),
    gene_count integer NOT NULL CHECK (gene_count >= 1),
    note text,
    made_at timestamptz NOT NULL DEFAULT now(),
    made_by text,
    report json NOT NULL,  -- What was given, and what of it was left out; json keeps every text.
    PRIMARY KEY (panel_id, version)
);

CREATE TABLE panel_gene (
    panel_id uuid NOT NULL,
    version integer NOT NULL,
    hgnc_id text NOT NULL,
    given text NOT NULL,  -- What somebody wrote, which named the gene then.
    symbol text,  -- What the gene was called then.
    place integer NOT NULL,  -- On the list, from 0.
    PRIMARY KEY (panel_id, version, hgnc_id),
    UNIQUE (panel_id, version, place),
    FOREIGN KEY (panel_id, version) REFERENCES panel_version
);
CREATE INDEX panel_gene_of ON panel_gene (hgnc_id);

-- A version is what it was made as, for everybody, the owner included.
CREATE FUNCTION refuse_panel_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'a version of a panel never changes: make a new one';
END
$$;
CREATE TRIGGER panel_version_kept BEFORE UPDATE OR DELETE OR TRUNCATE ON panel_version
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_panel_change();
CREATE TRIGGER panel_gene_kept BEFORE UPDATE OR DELETE OR TRUNCATE ON panel_gene
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_panel_change();
-- Its genes come in one statement, as many as it says: so none comes later.
CREATE FUNCTION check_panel_genes() RETURNS trigger LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
    IF EXISTS (
        SELECT FROM (SELECT DISTINCT panel_id, version FROM added) one
        JOIN panel_version v USING (panel_id, version)
        WHERE v.gene_count <> (SELECT count(*) FROM panel_gene g
                               WHERE g.panel_id = v.panel_id AND g.version = v.version)
    ) THEN
        RAISE EXCEPTION 'a version of a panel has as many genes as it says, from its beginning';
    END IF;
    RETURN NULL;
END
$$;
CREATE TRIGGER panel_gene_complete AFTER INSERT ON panel_gene REFERENCING NEW TABLE AS added
    FOR EACH STATEMENT EXECUTE FUNCTION check_panel_genes();

CREATE TABLE run (  -- What the user asked; what is true of its execution is annotator.run_v1.
    id uuid PRIMARY KEY DEFAULT uuidv7(),
    name text,
    sources text[] NOT NULL CHECK (sources <> '{}'),
    gene_count integer,  -- NULL: all genes of the catalogue.
    priority text NOT NULL DEFAULT 'normal' CHECK (priority IN ('high', 'normal', 'low')),
    strategy text NOT NULL DEFAULT 'full'
        CHECK (strategy IN ('full', 'stale', 'missing', 'force')),
    dry_run boolean NOT NULL DEFAULT false,  -- It only says what it would fetch and change.
    retries uuid REFERENCES run,  -- The run whose failures it works again.
    panel_id uuid,  -- Whose genes were ordered, in this version; the command has the genes.
    panel_version integer,
    scope bytea NOT NULL,  -- A hash of the genes it is over: two with the same one are compared.
    requested_at timestamptz NOT NULL DEFAULT now(),
    desired_state text NOT NULL DEFAULT 'running'
        CHECK (desired_state IN ('running', 'paused', 'cancelled')),
    control_epoch bigint NOT NULL DEFAULT 0,  -- Of the newest control of the run or of a source.
    CHECK (desired_state = 'running' OR control_epoch > 0),
    CHECK (retries IS NULL OR (strategy = 'full' AND retries <> id)),
    CHECK ((panel_id IS NULL) = (panel_version IS NULL)),
    FOREIGN KEY (panel_id, panel_version) REFERENCES panel_version
);
CREATE INDEX run_scope ON run (scope, requested_at);
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
    -- What came of it: a run, or a version of a panel.
    run_id uuid REFERENCES run,
    panel_id uuid,
    panel_version integer,
    created_at timestamptz NOT NULL DEFAULT now(),
    CHECK (num_nonnulls(run_id, panel_id) = 1 AND num_nonnulls(run_id, panel_version) = 1),
    FOREIGN KEY (panel_id, panel_version) REFERENCES panel_version
);

-- What was put aside because another try would not help, and what people decided about it.
CREATE TABLE dead_letter (
    id uuid PRIMARY KEY DEFAULT uuidv7(),
    kind text NOT NULL CHECK (kind IN ('message', 'batch')),
    state text NOT NULL DEFAULT 'open' CHECK (state IN ('open', 'retried', 'discarded')),
    parked_at timestamptz NOT NULL,
    service text,  -- Who parked it; NULL: nobody says so.
    consumer_group text,
    attempts integer CHECK (attempts >= 0),
    problem json NOT NULL,  -- RFC 9457; json, here and below, because jsonb does not take every text.
    run_ids uuid[] NOT NULL DEFAULT '{}',  -- That it is about; of a batch, those it failed for.
    source text,
    batch_id uuid,
    -- Of a message: where it lay, and all that came.
    topic text,
    partition integer CHECK (partition >= 0),
    "offset" bigint CHECK ("offset" >= 0),
    recorded_at timestamptz,  -- When it was sent: a topic that is made anew has the same places again.
    type text,
    key bytea,
    headers json,  -- Pairs of name and value in base64, in order; a value may be null.
    payload bytea,
    bytes integer,
    is_left_at_origin boolean,  -- It was larger than dlq.v1 takes, or could not be read.
    -- What was decided.
    decided_at timestamptz,
    decided_by text,
    note text,
    retry_run_id uuid REFERENCES run,  -- The run that works a batch again.
    retry_of uuid REFERENCES dead_letter,  -- The letter whose retry ended as this one.
    CHECK ((kind = 'message') = (topic IS NOT NULL)),
    CHECK ((topic IS NULL) = (partition IS NULL) AND (topic IS NULL) = ("offset" IS NULL)
           AND (topic IS NULL) = (headers IS NULL) AND (topic IS NULL) = (bytes IS NULL)
           AND (topic IS NULL) = (is_left_at_origin IS NULL)),
    CHECK (topic IS NOT NULL OR (recorded_at IS NULL AND type IS NULL AND key IS NULL AND payload IS NULL)),
    CHECK (kind <> 'batch' OR (batch_id IS NOT NULL AND source IS NOT NULL AND run_ids <> '{}')),
    CHECK (is_left_at_origin IS NOT TRUE OR (key IS NULL AND payload IS NULL)),
    CHECK ((state = 'open') = (decided_at IS NULL) AND (state = 'open') = (decided_by IS NULL)),
    CHECK (CASE state WHEN 'open' THEN note IS NULL WHEN 'discarded' THEN note IS NOT NULL ELSE true END),
    CHECK ((retry_run_id IS NOT NULL) = (kind = 'batch' AND state = 'retried')),
    CHECK (state <> 'retried' OR is_left_at_origin IS NOT TRUE),  -- Nothing of it could be sent.
    CHECK (retry_of <> id)
);
-- What arrives twice is one row.
CREATE UNIQUE INDEX dead_letter_message
    ON dead_letter (topic, partition, "offset", recorded_at, consumer_group)
    NULLS NOT DISTINCT WHERE kind = 'message';
CREATE UNIQUE INDEX dead_letter_batch ON dead_letter (batch_id) WHERE kind = 'batch' AND state = 'open';
CREATE INDEX dead_letter_newest ON dead_letter (parked_at DESC, id DESC);
CREATE INDEX dead_letter_open ON dead_letter (kind, id) WHERE state = 'open';
CREATE INDEX dead_letter_retry_run ON dead_letter (retry_run_id) WHERE retry_run_id IS NOT NULL;

-- What told of dead batches: one death is told to each run, and a slice may die once more.
CREATE TABLE dead_letter_fact (
    run_id uuid NOT NULL,
    seq bigint NOT NULL,
    letter_id uuid NOT NULL REFERENCES dead_letter,
    PRIMARY KEY (run_id, seq)
);
