CREATE TABLE outbox (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    event_id uuid NOT NULL DEFAULT uuidv7(),
    topic text NOT NULL,
    key text NOT NULL,
    headers jsonb NOT NULL,
    payload bytea,
    -- A record that is sent again as it came: its own key and headers, json because a name may hold
    -- what jsonb does not take. `key` only orders it then, `headers` are added.
    raw_key bytea,
    raw_headers json,
    CHECK (raw_headers IS NOT NULL OR (payload IS NOT NULL AND raw_key IS NULL))
) WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000);

-- One wake-up per statement; who listens looks at the table.
CREATE FUNCTION wake_relay() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify('relay-' || TG_TABLE_SCHEMA, '');
    RETURN NULL;
END $$;
CREATE TRIGGER outbox_added AFTER INSERT ON outbox
    FOR EACH STATEMENT EXECUTE FUNCTION wake_relay();
