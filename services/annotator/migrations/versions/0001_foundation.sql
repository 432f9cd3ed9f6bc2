-- Sources and their releases -----------------------------------------------------------------

CREATE TABLE source (  -- What the source files declare; written by `annobus migrate`.
    name text PRIMARY KEY,
    title text NOT NULL,
    kind text NOT NULL CHECK (kind IN ('bulk', 'api')),
    is_catalogue boolean NOT NULL,
    identifier text NOT NULL CHECK (identifier IN ('hgnc_id', 'entrez_id', 'ensembl_gene_id')),
    joins text[] NOT NULL,
    homepage text NOT NULL,
    licence text NOT NULL,
    citation text NOT NULL,
    wire_format text NOT NULL,
    ttl interval NOT NULL CHECK (ttl > interval '0'),
    parser_version integer NOT NULL,
    requests_per_second double precision NOT NULL,
    concurrency integer NOT NULL,
    page_size integer,  -- Genes in one request; of an API.
    fallback text,  -- Who is asked for a few genes while its files cannot be had.
    score text,
    value_schema jsonb NOT NULL,
    severities jsonb NOT NULL,  -- How much a change of each field matters.
    summary_fields jsonb NOT NULL,  -- By which genes are filtered and sorted, and what they are.
    expected jsonb,
    is_retired boolean NOT NULL DEFAULT false  -- No file declares it any more; its values stay.
);
CREATE UNIQUE INDEX source_one_catalogue ON source (is_catalogue) WHERE is_catalogue;

CREATE TABLE release (
    id uuid PRIMARY KEY DEFAULT uuidv7(),
    source text NOT NULL REFERENCES source,
    version text,
    state text NOT NULL
        CHECK (state IN ('fetched', 'staged', 'quarantined', 'accepted', 'stored', 'rejected')),
    synthetic boolean NOT NULL DEFAULT false,
    sha256 bytea,
    parser_version integer NOT NULL,
    method text NOT NULL DEFAULT '1',  -- How the upstream makes its values.
    catalogue_id uuid REFERENCES release,  -- The catalogue its records were matched against.
    row_count integer,
    unmapped_count integer,
    columns jsonb,  -- How each of its files names its columns.
    counts jsonb,  -- What its source counts in it besides records.
    -- What it was compared with when it was staged, and why its values differ from that one's.
    baseline_id uuid REFERENCES release,
    cause text CHECK (cause IN ('upstream', 'parser', 'mapping', 'correction')),
    is_new_method boolean NOT NULL DEFAULT false,  -- All its changes are one.
    doubts jsonb,  -- Why it had better not be believed unseen.
    decision text CHECK (decision IN ('accept', 'reject')),
    decided_at timestamptz,
    decided_by text,
    decision_note text,
    retrieved_at timestamptz NOT NULL,
    checked_at timestamptz NOT NULL,
    accepted_at timestamptz,
    accepted_xid xid8,  -- That accepted it first: its values are stored from it on, and until `stored_xid`.
    stored_at timestamptz,
    changed_count integer NOT NULL DEFAULT 0,
    readable_since timestamptz,  -- Stored whole once: readers rely on it, even while it is staged anew.
    stored_xid xid8,
    problem jsonb,
    CHECK (state <> 'quarantined' OR (doubts IS NOT NULL AND decision IS NULL)),
    CHECK ((decision IS NULL) = (decided_at IS NULL) AND (decision IS NULL) = (decided_by IS NULL)),
    CHECK (state <> 'stored' OR readable_since IS NOT NULL),
    CHECK (state NOT IN ('staged', 'accepted', 'stored') OR version IS NOT NULL),
    CHECK ((state IN ('accepted', 'stored')) = (accepted_at IS NOT NULL)),
    CHECK ((state = 'stored') = (stored_at IS NOT NULL)),
    CHECK ((state = 'rejected') = (problem IS NOT NULL))
);
CREATE INDEX release_newest ON release (source, retrieved_at DESC);

CREATE TABLE release_file (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    release_id uuid NOT NULL REFERENCES release,
    name text NOT NULL,
    url text NOT NULL,
    etag text,
    last_modified text,
    media_type text,
    sha256 bytea NOT NULL,
    bytes bigint NOT NULL,
    retrieved_at timestamptz NOT NULL DEFAULT now(),
    removed_at timestamptz,  -- Its bytes are not kept any more.
    UNIQUE (release_id, name, sha256)
);

-- A release whose changes are told as one: the first of its source, or one of another method.
CREATE TABLE release_change (
    xid xid8 PRIMARY KEY DEFAULT pg_current_xact_id(),
    release_id uuid NOT NULL REFERENCES release,
    baseline_id uuid REFERENCES release,
    cause text CHECK (cause IN ('upstream', 'parser', 'mapping', 'correction')),
    changed_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    gene_count integer NOT NULL
);

-- Lost in a database crash, on purpose: they can be made again from the raw bytes.
-- The marker tells an empty table from an empty release.
CREATE UNLOGGED TABLE staged (
    release_id uuid NOT NULL,
    hgnc_id text NOT NULL,
    value json STORAGE EXTERNAL NOT NULL,  -- Its one spelling: what the digest is of.
    digest bytea NOT NULL,
    file_id bigint NOT NULL,
    position integer NOT NULL,
    matched_by text NOT NULL,
    PRIMARY KEY (release_id, hgnc_id)
);
CREATE UNLOGGED TABLE staged_release (release_id uuid PRIMARY KEY);

CREATE TABLE unmapped (
    release_id uuid NOT NULL REFERENCES release,
    position integer NOT NULL,  -- The order in which they were found, from 1.
    key text NOT NULL,
    reason text NOT NULL,
    row_count integer NOT NULL,
    PRIMARY KEY (release_id, position)
);

-- The gene catalogue --------------------------------------------------------------------------

CREATE TABLE gene (
    hgnc_id text PRIMARY KEY CHECK (hgnc_id ~ '^HGNC:[0-9]+$'),
    hgnc_number integer GENERATED ALWAYS AS (substr(hgnc_id, 6)::integer) STORED,
    symbol text NOT NULL,
    name text,
    status text NOT NULL CHECK (status IN ('approved', 'withdrawn', 'merged')),
    locus_group text,
    locus_type text,
    location text,
    entrez_id text CHECK (entrez_id ~ '^[0-9]+$'),
    ensembl_gene_id text,
    successors text[] NOT NULL DEFAULT '{}',
    listed_at timestamptz NOT NULL DEFAULT '-infinity',  -- When the release was retrieved that approved it.
    CHECK (status <> 'approved' OR successors = '{}')
);
CREATE INDEX gene_approved ON gene (hgnc_number) WHERE status = 'approved';
CREATE INDEX gene_entrez ON gene (entrez_id);
CREATE INDEX gene_ensembl ON gene (ensembl_gene_id);  -- Not unique: two genes may share one.

CREATE TABLE gene_name (
    folded text NOT NULL,
    name text NOT NULL,
    kind text NOT NULL CHECK (kind IN ('approved', 'previous', 'alias', 'withdrawn')),
    hgnc_id text NOT NULL,  -- No foreign key: both tables are rewritten from the same rows.
    PRIMARY KEY (folded, kind, hgnc_id, name)
);
CREATE INDEX gene_name_by_part ON gene_name USING gin (folded public.gin_trgm_ops);

CREATE TABLE gene_event (  -- What became of a gene that was known before.
    xid xid8 NOT NULL DEFAULT pg_current_xact_id(),
    id bigint GENERATED ALWAYS AS IDENTITY,
    hgnc_id text NOT NULL REFERENCES gene,
    kind text NOT NULL CHECK (kind IN ('renamed', 'merged', 'split', 'withdrawn', 'restored')),
    symbol_before text NOT NULL,
    symbol_after text NOT NULL,
    successors text[] NOT NULL DEFAULT '{}',
    release_id uuid NOT NULL REFERENCES release,
    at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (xid, id),  -- The order in which events are followed, as with changes.
    CHECK (kind <> 'renamed' OR symbol_before <> symbol_after),
    CHECK ((kind IN ('merged', 'split')) = (successors <> '{}'))
);
CREATE INDEX gene_event_of_gene ON gene_event (hgnc_id, id);
CREATE INDEX gene_event_of_successor ON gene_event USING gin (successors);

-- Runs and batches ----------------------------------------------------------------------------

CREATE TABLE run (
    id uuid PRIMARY KEY,
    state text NOT NULL DEFAULT 'planning'
        CHECK (state IN ('planning', 'running', 'paused', 'completed', 'completed_with_errors',
                         'failed', 'cancelled')),
    priority text NOT NULL DEFAULT 'normal' CHECK (priority IN ('high', 'normal', 'low')),
    strategy text NOT NULL DEFAULT 'full'
        CHECK (strategy IN ('full', 'stale', 'missing', 'force')),
    retries uuid REFERENCES run,  -- The run whose failures it works again, and nothing else.
    dry_run boolean NOT NULL DEFAULT false,  -- It only says what it would fetch and change.
    all_genes boolean NOT NULL,
    awaits_catalogue boolean NOT NULL,
    gene_count integer,
    planned_all boolean NOT NULL DEFAULT false,
    open_sources integer NOT NULL CHECK (open_sources >= 0),
    control_epoch bigint NOT NULL DEFAULT 0,  -- Of the newest control of the run as a whole.
    seq bigint NOT NULL DEFAULT 0,
    started_at timestamptz NOT NULL DEFAULT now(),
    finished_at timestamptz,
    CHECK ((finished_at IS NOT NULL)
           = (state IN ('completed', 'completed_with_errors', 'failed', 'cancelled'))),
    CHECK (finished_at IS NULL OR open_sources = 0),
    CHECK (retries IS NULL OR (strategy = 'full' AND retries <> id)),
    CHECK (NOT dry_run OR NOT awaits_catalogue),
    CHECK (state <> 'running' OR planned_all),
    CHECK (state <> 'paused' OR control_epoch > 0)
);
CREATE INDEX run_active ON run (started_at) WHERE state IN ('planning', 'running', 'paused');

-- The scope of a run over a list: what of it was approved when it was planned. A run over all
-- genes has no rows here.
CREATE TABLE run_gene (
    run_id uuid NOT NULL REFERENCES run,
    hgnc_id text NOT NULL,
    PRIMARY KEY (run_id, hgnc_id)
);

CREATE TABLE run_source (
    run_id uuid NOT NULL REFERENCES run,
    source text NOT NULL REFERENCES source,
    state text NOT NULL DEFAULT 'waiting'
        CHECK (state IN ('waiting', 'running', 'completed', 'failed', 'cancelled')),
    is_paused boolean NOT NULL DEFAULT false,  -- By itself; that the run is paused says the run.
    control_epoch bigint NOT NULL DEFAULT 0,  -- Of the newest control of this source alone.
    release_id uuid REFERENCES release,
    total_count integer,
    done_count integer NOT NULL DEFAULT 0 CHECK (done_count >= 0),
    no_data_count integer NOT NULL DEFAULT 0 CHECK (no_data_count >= 0),
    failed_count integer NOT NULL DEFAULT 0 CHECK (failed_count >= 0),
    cancelled_count integer NOT NULL DEFAULT 0 CHECK (cancelled_count >= 0),
    changed_count integer NOT NULL DEFAULT 0 CHECK (changed_count >= 0),
    preview jsonb,  -- Of a dry run: what it would fetch, or change.
    problem jsonb,
    started_at timestamptz,
    finished_at timestamptz,
    PRIMARY KEY (run_id, source),
    CHECK (done_count + no_data_count + failed_count + cancelled_count
           <= coalesce(total_count, 0)),
    CHECK (state = 'cancelled' OR cancelled_count = 0),
    CHECK (preview IS NULL OR total_count = 0),
    CHECK (NOT is_paused OR (state IN ('waiting', 'running') AND control_epoch > 0)),
    CHECK (state <> 'running' OR (total_count IS NOT NULL AND release_id IS NOT NULL)),
    CHECK ((state IN ('completed', 'failed', 'cancelled')) = (finished_at IS NOT NULL)),
    CHECK (finished_at IS NULL
           OR done_count + no_data_count + failed_count + cancelled_count = total_count)
);
CREATE INDEX run_source_open ON run_source (source) WHERE state IN ('waiting', 'running');

-- The clock of a run at a source: genes given to it, divided by its weight. Only whoever feeds
-- writes it.
CREATE TABLE turn (
    run_id uuid NOT NULL,
    source text NOT NULL,
    began double precision NOT NULL CHECK (began >= 0),  -- When its last batch was given,
    until double precision NOT NULL,  -- and when it is its turn again.
    PRIMARY KEY (run_id, source),
    FOREIGN KEY (run_id, source) REFERENCES run_source ON DELETE CASCADE,
    CHECK (began < until)
) WITH (fillfactor = 50);

CREATE TABLE batch (
    id uuid PRIMARY KEY DEFAULT uuidv7(),
    -- release: find and stage what is new; store: a slice of a staged release;
    -- fetch: some genes of a run, page by page from an API.
    kind text NOT NULL CHECK (kind IN ('release', 'store', 'fetch')),
    source text NOT NULL REFERENCES source,
    run_id uuid REFERENCES run,
    release_id uuid REFERENCES release,
    genes text[] NOT NULL DEFAULT '{}',
    state text NOT NULL DEFAULT 'pending'
        CHECK (state IN ('pending', 'queued', 'leased', 'done', 'dead', 'cancelled')),
    attempt integer NOT NULL DEFAULT 0,
    refusals integer NOT NULL DEFAULT 0 CHECK (refusals >= 0),  -- Answers of 429.
    checkpoint integer NOT NULL DEFAULT 0,
    lease_token bigint NOT NULL DEFAULT 0,
    lease_owner text,
    lease_until timestamptz,
    next_attempt_at timestamptz NOT NULL DEFAULT now(),
    queued_at timestamptz,
    finished_at timestamptz,
    failing_since timestamptz,  -- The first failure of what it is, or is a part of.
    is_dry boolean NOT NULL DEFAULT false,  -- Nobody waits for it but dry runs: what is new is not accepted.
    is_forced boolean NOT NULL DEFAULT false,  -- Whatever is published is downloaded and matched.
    halvings integer NOT NULL DEFAULT 0,  -- How often what it is a part of failed and was halved.
    problem jsonb,
    CHECK (NOT is_forced OR kind = 'release'),
    CHECK (NOT is_dry OR kind = 'release'),
    CHECK (halvings = 0 OR (kind = 'fetch' AND failing_since IS NOT NULL)),
    CHECK ((kind = 'fetch') = (run_id IS NOT NULL)),
    CHECK ((kind = 'store') = (release_id IS NOT NULL)),
    CHECK ((kind = 'release') = (genes = '{}')),
    CHECK (checkpoint BETWEEN 0 AND cardinality(genes)),
    -- A half-set lease would be invisible to every query for ever.
    CHECK ((state = 'leased') = (lease_owner IS NOT NULL AND lease_until IS NOT NULL)),
    CHECK ((lease_owner IS NULL) = (lease_until IS NULL)),
    CHECK ((state IN ('done', 'dead', 'cancelled')) = (finished_at IS NOT NULL)),
    CHECK (state <> 'cancelled' OR kind = 'fetch'),  -- What is the source's own, no run ends.
    CHECK (state <> 'dead' OR problem IS NOT NULL)
);
CREATE UNIQUE INDEX batch_one_open_release ON batch (source)
    WHERE kind = 'release' AND state NOT IN ('done', 'dead');
CREATE INDEX batch_pending ON batch (source, run_id, id) WHERE state = 'pending';
CREATE INDEX batch_in_flight ON batch (source) WHERE state IN ('queued', 'leased');
CREATE INDEX batch_part ON batch (run_id, source)
    WHERE halvings > 0 AND state IN ('pending', 'queued', 'leased');
CREATE INDEX batch_of_release ON batch (release_id) WHERE kind = 'store';

-- Who plans and feeds is woken by what gives it work; it looks at the tables itself.
CREATE FUNCTION wake_planner() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify('planner', '');
    RETURN NULL;
END $$;
CREATE TRIGGER run_ordered AFTER INSERT ON run
    FOR EACH STATEMENT EXECUTE FUNCTION wake_planner();
CREATE TRIGGER batch_cut AFTER INSERT ON batch
    FOR EACH STATEMENT EXECUTE FUNCTION wake_planner();
CREATE TRIGGER batch_left AFTER UPDATE OF state ON batch FOR EACH ROW
    WHEN (old.state <> new.state AND new.state IN ('pending', 'done', 'dead', 'cancelled'))
    EXECUTE FUNCTION wake_planner();
CREATE TRIGGER run_resumed AFTER UPDATE OF state ON run FOR EACH ROW
    WHEN (old.state = 'paused' AND new.state IN ('planning', 'running'))
    EXECUTE FUNCTION wake_planner();
CREATE TRIGGER run_source_resumed AFTER UPDATE OF is_paused ON run_source FOR EACH ROW
    WHEN (old.is_paused AND NOT new.is_paused)
    EXECUTE FUNCTION wake_planner();

CREATE TABLE run_fact (
    run_id uuid NOT NULL REFERENCES run,
    seq bigint NOT NULL,
    type text NOT NULL,
    time timestamptz NOT NULL DEFAULT clock_timestamp(),  -- Grows with seq: the run is locked.
    body jsonb NOT NULL,
    PRIMARY KEY (run_id, seq)
);

-- Upstreams -----------------------------------------------------------------------------------

CREATE TABLE upstream (  -- When each may be called, agreed among all workers; by database time.
    name text PRIMARY KEY,  -- No foreign key: who stands in for a source is none itself.
    next_at timestamptz NOT NULL DEFAULT '-infinity',  -- The first turn that nobody has yet.
    -- Of the rate that the source declares: halved by a 429, raised again step by step.
    share double precision NOT NULL DEFAULT 1 CHECK (share > 0 AND share <= 1),
    slowed_at timestamptz NOT NULL DEFAULT '-infinity',
    raised_at timestamptz NOT NULL DEFAULT '-infinity',
    blocked_until timestamptz NOT NULL DEFAULT '-infinity',  -- It said when to come back.
    blocked_reason text,
    failures integer NOT NULL DEFAULT 0 CHECK (failures >= 0),  -- In a row.
    window_at timestamptz NOT NULL DEFAULT '-infinity',  -- Since then are counted:
    window_calls integer NOT NULL DEFAULT 0,
    window_failures integer NOT NULL DEFAULT 0,
    open_until timestamptz,  -- The breaker; NULL: closed, past: half open.
    open_reason text,
    probe_until timestamptz,  -- Who has the one permit of a half-open breaker, known by it.
    CHECK (blocked_until = '-infinity' OR blocked_reason IS NOT NULL),
    CHECK ((open_until IS NULL) = (open_reason IS NULL)),
    CHECK (probe_until IS NULL OR open_until IS NOT NULL),
    CHECK (window_failures BETWEEN 0 AND window_calls)
) WITH (fillfactor = 50);  -- A few rows, written several times a second.

-- Annotations ---------------------------------------------------------------------------------

CREATE TABLE annotation (
    xid xid8 NOT NULL DEFAULT pg_current_xact_id(),
    id bigint GENERATED ALWAYS AS IDENTITY,
    hgnc_id text NOT NULL,
    source text NOT NULL,
    valid_from timestamptz NOT NULL,
    valid_to timestamptz NOT NULL DEFAULT 'infinity',
    value json STORAGE EXTERNAL,  -- NULL: the source had a value for this gene and has none any more.
    digest bytea NOT NULL,
    release_id uuid NOT NULL,
    file_id bigint NOT NULL,
    position integer NOT NULL,
    retrieved_at timestamptz NOT NULL,
    parser_version integer NOT NULL,
    matched_by text NOT NULL
        CHECK (matched_by IN ('hgnc_id', 'entrez_id', 'ensembl_gene_id', 'symbol')),
    run_id uuid,
    -- Why it is another than before; of first values nothing says so. A release that changes the
    -- method, or is the first of its source, is one change: its values have no severity.
    cause text CHECK (cause IN ('upstream', 'parser', 'mapping', 'correction')),
    severity text CHECK (severity IN ('none', 'minor', 'major', 'clinical')),
    CHECK (severity IS NULL OR cause IS NOT NULL),
    PRIMARY KEY (xid, id),  -- The order in which changes are read.
    CHECK (valid_from < valid_to),
    CHECK ((value IS NULL) = (digest = '\x'))
) WITH (fillfactor = 90);
CREATE UNIQUE INDEX annotation_current ON annotation (hgnc_id, source)
    WHERE valid_to = 'infinity';
CREATE INDEX annotation_count ON annotation (source)
    WHERE valid_to = 'infinity' AND value IS NOT NULL;
CREATE INDEX annotation_changes ON annotation (xid, id) WHERE severity IS NOT NULL;
CREATE INDEX annotation_time ON annotation USING brin (valid_from)
    WITH (pages_per_range = 32, autosummarize = on);
CREATE INDEX annotation_history ON annotation (hgnc_id, source, valid_from DESC)
    WHERE valid_to <> 'infinity';

-- The greatest severity of the fields that differ; a field that is null is as one that is absent.
CREATE FUNCTION severity_of(severities jsonb, before json, after json) RETURNS text
LANGUAGE sql IMMUTABLE AS $$
    SELECT (ARRAY['none', 'minor', 'major', 'clinical'])[max(
        CASE s.value WHEN 'clinical' THEN 4 WHEN 'major' THEN 3 WHEN 'minor' THEN 2 ELSE 1 END)]
    FROM (SELECT before::jsonb AS before, after::jsonb AS after) v, jsonb_each_text(severities) s
    WHERE v.before->>s.key IS DISTINCT FROM v.after->>s.key
$$;

-- In place of foreign keys: theirs are three look-ups for each row, four fifths of an insert's time.
CREATE FUNCTION require_origin() RETURNS trigger LANGUAGE plpgsql SET search_path = annotator AS $$
DECLARE
    stray record;
BEGIN
    SELECT a.source, a.release_id, a.file_id INTO stray
    FROM (SELECT DISTINCT source, release_id, file_id FROM added) a
    LEFT JOIN release_file f ON f.id = a.file_id AND f.release_id = a.release_id
    LEFT JOIN release r ON r.id = f.release_id AND r.source = a.source
    WHERE r.id IS NULL LIMIT 1;
    IF FOUND THEN
        RAISE foreign_key_violation USING MESSAGE = format(
            'file %s is none of release %s of %s', stray.file_id, stray.release_id, stray.source);
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER annotation_origin AFTER INSERT ON annotation REFERENCING NEW TABLE AS added
    FOR EACH STATEMENT EXECUTE FUNCTION require_origin();

-- The time from which the last versions of a source hold. Whoever stores holds its row.
CREATE TABLE store_clock (
    source text PRIMARY KEY,
    at timestamptz NOT NULL
) WITH (fillfactor = 50);

CREATE TABLE checked (  -- API sources only: a bulk gene was checked when its release was stored.
    hgnc_id text NOT NULL,
    source text NOT NULL,  -- No foreign key, either: names come from batch and run_source.
    checked_at timestamptz NOT NULL,
    retrieved_at timestamptz NOT NULL,  -- What was asked before is never stored over it.
    outcome text NOT NULL CHECK (outcome IN ('ok', 'empty', 'error')),  -- A status, but for time.
    problem jsonb,
    PRIMARY KEY (hgnc_id, source),
    CHECK ((outcome = 'error') = (problem IS NOT NULL))
) WITH (fillfactor = 70);

-- Published views -----------------------------------------------------------------------------

CREATE VIEW gene_v1 AS
SELECT hgnc_id, symbol, name, status, locus_group, locus_type, location, entrez_id,
       ensembl_gene_id, successors, listed_at
FROM gene;

CREATE VIEW gene_name_v1 AS SELECT folded, name, kind, hgnc_id FROM gene_name;

CREATE VIEW release_v1 AS
SELECT id AS release_id, source, version, state, synthetic, encode(sha256, 'hex') AS sha256,
       parser_version, method, baseline_id, cause, is_new_method, doubts, decision, decided_at,
       decided_by, decision_note, row_count, unmapped_count, changed_count, retrieved_at,
       checked_at, accepted_at, accepted_xid, stored_at, readable_since, stored_xid, problem
FROM release;

CREATE VIEW release_file_v1 AS
SELECT id AS file_id, release_id, name, url, etag, last_modified, media_type,
       encode(sha256, 'hex') AS sha256, bytes, retrieved_at, removed_at
FROM release_file;

CREATE VIEW source_v1 AS
SELECT s.name, s.title, s.kind, s.is_catalogue, s.identifier, s.joins, s.homepage, s.licence,
       s.citation, s.wire_format, s.parser_version, s.requests_per_second, s.concurrency,
       s.page_size, s.score, s.value_schema, s.severities, s.summary_fields, s.expected, s.is_retired,
       extract(epoch FROM s.ttl)::integer AS ttl_seconds,
       r.id AS release_id, r.version AS release, coalesce(r.synthetic, false) AS synthetic,
       r.checked_at, r.stored_at, CASE
           WHEN s.is_catalogue THEN r.retrieved_at
           WHEN r.stored_at IS NULL THEN r.readable_since  -- It is being matched anew.
           ELSE (SELECT c.retrieved_at FROM release c WHERE c.id = r.catalogue_id)
       END AS matched_until,
       coalesce(c.annotation_count, 0) AS annotation_count
FROM source s
LEFT JOIN LATERAL (
    SELECT * FROM release r
    WHERE r.source = s.name AND r.readable_since IS NOT NULL
    ORDER BY r.retrieved_at DESC LIMIT 1
) r ON true
LEFT JOIN (  -- One count for all; who asks for no count pays for none.
    SELECT source, count(*)::integer AS annotation_count FROM annotation
    WHERE valid_to = 'infinity' AND value IS NOT NULL GROUP BY source
) c ON c.source = s.name;

CREATE VIEW current_annotation_v1 AS
WITH newest AS (
    SELECT name AS source, kind, make_interval(secs => ttl_seconds) AS ttl, release_id AS id,
           checked_at, matched_until
    FROM source_v1
)
SELECT g.hgnc_id, n.source,
       CASE
           WHEN c.outcome = 'error' THEN 'error'
           WHEN a.value IS NULL AND n.kind = 'bulk'
               AND (n.id IS NULL OR g.listed_at > n.matched_until) THEN 'pending'
           WHEN a.value IS NULL AND n.kind = 'api' AND c.outcome IS NULL THEN 'pending'
           WHEN coalesce(c.checked_at, n.checked_at, a.retrieved_at) < now() - n.ttl THEN 'stale'
           WHEN a.value IS NULL THEN 'empty'
           ELSE 'ok'
       END AS status,
       a.value, a.release_id, r.version AS release, coalesce(r.synthetic, false) AS synthetic,
       a.valid_from, coalesce(c.checked_at, n.checked_at, a.retrieved_at) AS checked_at
FROM gene g
CROSS JOIN newest n
-- LATERAL with LIMIT: one index look-up per pair, whatever the statistics of a table that is
-- being filled for the first time make of a join.
LEFT JOIN LATERAL (
    SELECT * FROM annotation a
    WHERE a.hgnc_id = g.hgnc_id AND a.source = n.source AND a.valid_to = 'infinity' LIMIT 1
) a ON true
LEFT JOIN LATERAL (SELECT * FROM release r WHERE r.id = a.release_id LIMIT 1) r ON true
LEFT JOIN LATERAL (
    SELECT * FROM checked c WHERE c.hgnc_id = g.hgnc_id AND c.source = n.source LIMIT 1
) c ON true;

CREATE VIEW checked_v1 AS SELECT hgnc_id, source, outcome, checked_at FROM checked;

CREATE VIEW annotation_v1 AS
SELECT xid, id, hgnc_id, source, valid_from, nullif(valid_to, 'infinity') AS valid_to,
       valid_to = 'infinity' AS is_current, value, release_id, file_id, position, parser_version, matched_by, run_id, cause, severity
FROM annotation;

CREATE VIEW change_v1 AS
SELECT a.xid, a.id, 'annotation' AS kind, a.hgnc_id, a.source, a.valid_from AS changed_at,
       a.cause, a.severity, b.value AS before, b.release_id AS release_id_before,
       a.value AS after, a.release_id, a.run_id, 1 AS gene_count
FROM annotation a
LEFT JOIN LATERAL (
    SELECT * FROM annotation b
    WHERE b.hgnc_id = a.hgnc_id AND b.source = a.source AND b.valid_to = a.valid_from
      AND b.valid_to <> 'infinity' LIMIT 1
) b ON true
WHERE a.severity IS NOT NULL
UNION ALL  -- What is one change, however many genes it has: the first release, and another method.
SELECT c.xid, 0, 'release', NULL, r.source, c.changed_at, c.cause, NULL, NULL,
       c.baseline_id, NULL, c.release_id, NULL, c.gene_count
FROM release_change c JOIN release r ON r.id = c.release_id;

CREATE VIEW run_v1 AS
SELECT id AS run_id, state, seq, gene_count, planned_all, started_at, finished_at FROM run;

CREATE VIEW upstream_v1 AS
SELECT name, share, CASE WHEN blocked_until > now() THEN blocked_until
                         WHEN open_until > now() THEN open_until END AS waits_until,
       CASE WHEN blocked_until > now() THEN blocked_reason
            WHEN open_until > now() THEN open_reason END AS waits_because
FROM upstream;

CREATE VIEW run_source_v1 AS
SELECT rs.run_id, rs.source, CASE WHEN rs.is_paused THEN 'paused' ELSE rs.state END AS state,
       rs.total_count, rs.done_count, rs.no_data_count, rs.failed_count, rs.cancelled_count,
       rs.changed_count, r.version AS release,
       coalesce(r.synthetic, false) AS synthetic, rs.problem, rs.started_at, rs.finished_at,
       rs.preview, w.waits_for, w.waits_until, w.waits_because
FROM run_source rs
LEFT JOIN release r ON r.id = rs.release_id
LEFT JOIN LATERAL (  -- Its own upstream, or else who stands in for it.
    SELECT u.name AS waits_for, u.waits_until, u.waits_because
    FROM source s JOIN upstream_v1 u ON u.name IN (s.name, s.fallback)
    WHERE s.name = rs.source AND u.waits_until IS NOT NULL
      AND (rs.state = 'waiting' OR (rs.state = 'running' AND s.kind = 'api'))
      AND (u.name = s.name OR EXISTS (  -- It was asked, or is to be.
          SELECT FROM batch b WHERE b.source = s.name AND b.kind = 'release'
          AND b.state IN ('pending', 'queued') AND b.problem IS NOT NULL))
    ORDER BY u.name = s.name DESC LIMIT 1
) w ON NOT rs.is_paused;

CREATE VIEW run_fact_v1 AS SELECT run_id, seq, type, time, body FROM run_fact;

CREATE VIEW batch_v1 AS
SELECT id AS batch_id, kind, source, run_id, release_id, state,
       cardinality(genes) AS gene_count, checkpoint, attempt, next_attempt_at, problem,
       CASE WHEN kind <> 'release' THEN genes[checkpoint + 1:] END AS genes_left
FROM batch;

CREATE VIEW unmapped_v1 AS
SELECT u.release_id, r.source, u.position, u.key, u.reason, u.row_count
FROM unmapped u JOIN release r ON r.id = u.release_id;

CREATE VIEW gene_event_v1 AS
SELECT xid, id, hgnc_id, kind, symbol_before, symbol_after, successors, release_id, at
FROM gene_event;

REVOKE INSERT, UPDATE, DELETE ON source FROM annotator;  -- `annobus migrate` writes it.

-- Fresh statistics right after a load: a plan made for an empty table scans it for every batch.
GRANT MAINTAIN ON gene, gene_name, staged TO annotator;

GRANT USAGE ON SCHEMA annotator TO gateway, cache;
GRANT SELECT ON gene_v1, gene_name_v1, gene_event_v1, release_v1, release_file_v1, source_v1,
    current_annotation_v1, checked_v1, annotation_v1, change_v1, run_v1, run_source_v1, run_fact_v1, batch_v1,
    unmapped_v1, upstream_v1 TO gateway, cache;
