-- intent_ref: event-store.roles
-- The roles are the cluster's, not the database's, so each is made only where it is missing.
--   quantum_owner       owns every table; migrates; nobody serves requests as it
--   quantum_app         the APIs: reads the rows of one tenant at a time, appends only through quantum.append_events
--   quantum_platform    projectors, relay, sagas, sealer: reads every tenant's rows, writes what is derived from them
--   quantum_log_writer  owns quantum.append_events and nothing else: the only role that can insert an event
DO $$
DECLARE
    wanted text;
    can_log_in boolean;
BEGIN
    PERFORM pg_advisory_xact_lock(20820, 1);
    FOR wanted, can_log_in IN
        VALUES ('quantum_owner', false), ('quantum_app', true), ('quantum_platform', true), ('quantum_log_writer', false)
    LOOP
        IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = wanted) THEN
            EXECUTE format('CREATE ROLE %I %s NOSUPERUSER NOCREATEDB NOCREATEROLE NOBYPASSRLS NOINHERIT',
                           wanted, CASE WHEN can_log_in THEN 'LOGIN' ELSE 'NOLOGIN' END);
        END IF;
    END LOOP;
    EXECUTE format('GRANT quantum_owner, quantum_log_writer TO %I', session_user);
    GRANT quantum_log_writer TO quantum_owner;
    EXECUTE format('GRANT CONNECT ON DATABASE %I TO quantum_app, quantum_platform', current_database());
END
$$;

CREATE SCHEMA IF NOT EXISTS quantum;
ALTER SCHEMA quantum OWNER TO quantum_owner;
GRANT USAGE ON SCHEMA quantum TO quantum_app, quantum_platform, quantum_log_writer;
