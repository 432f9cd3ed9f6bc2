-- Makes the roles and schemas of annobus in the current database. Run it as a superuser, or as a role with CREATEROLE
-- that owns the database. Running it again changes nothing but the passwords that are set.
--
-- It reads the passwords of the four roles from settings of the session:
--   SET annobus.annobus_password = '…';   SET annobus.annotator_password = '…';
--   SET annobus.cache_password = '…';     SET annobus.gateway_password = '…';
-- With psql: psql --single-transaction -c "SET annobus.annobus_password = '…'" -c … -f infra/roles.sql "$DATABASE"
-- An existing role whose password is not set keeps the one it has.

-- annobus owns everything and is used by `annobus migrate` alone; the others are one role per service.
DO $$
DECLARE
    role_name text;
    role_password text;
BEGIN
    FOREACH role_name IN ARRAY ARRAY['annobus', 'annotator', 'cache', 'gateway'] LOOP
        role_password := nullif(current_setting('annobus.' || role_name || '_password', true), '');
        IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = role_name) THEN
            IF role_password IS NULL THEN
                RAISE EXCEPTION 'the role % needs a password: SET annobus.%_password first', role_name, role_name;
            END IF;
            EXECUTE format('CREATE ROLE %I LOGIN', role_name);
        END IF;
        IF role_password IS NOT NULL THEN
            EXECUTE format('ALTER ROLE %I PASSWORD %L', role_name, role_password);
        END IF;
    END LOOP;
    -- Who is no superuser must be a member of annobus to make schemas that annobus owns.
    IF NOT pg_has_role(current_user, 'annobus', 'SET') THEN
        EXECUTE format('GRANT annobus TO %I', current_user);
    END IF;
END
$$;

REVOKE CREATE ON SCHEMA public FROM PUBLIC;

-- Parts of texts are looked up by it. Every PostgreSQL comes with it, and the owner of a database may add it.
CREATE EXTENSION IF NOT EXISTS pg_trgm SCHEMA public;

DO $$
DECLARE
    service text;
BEGIN
    FOREACH service IN ARRAY ARRAY['annotator', 'cache', 'gateway'] LOOP
        EXECUTE format('CREATE SCHEMA IF NOT EXISTS %I', service);
        EXECUTE format('ALTER SCHEMA %I OWNER TO annobus', service);
        EXECUTE format('REVOKE ALL ON SCHEMA %I FROM PUBLIC', service);
        EXECUTE format('GRANT USAGE ON SCHEMA %I TO %I', service, service);
        -- What a service writes without a prefix is its own; a prefix always means somebody else's view.
        EXECUTE format('ALTER ROLE %I SET search_path = %I', service, service);
        EXECUTE format(
            'ALTER DEFAULT PRIVILEGES FOR ROLE annobus IN SCHEMA %I '
            'GRANT SELECT, INSERT, UPDATE, DELETE ON TABLES TO %I', service, service);
        EXECUTE format(
            'ALTER DEFAULT PRIVILEGES FOR ROLE annobus IN SCHEMA %I GRANT USAGE ON SEQUENCES TO %I',
            service, service);
    END LOOP;
END
$$;
