-- intent_ref: sagas.refused-starts
-- Starts that nobody asks for and that a limit of the tenant refuses are not lost: a schedule's time is owed until it has been
-- started or its policy lets it go, and an event's start is tried again until it is a dead letter.
--
-- `owed_time` is the time of a schedule that was refused and is to be tried again at `look_at`: `tries` times so far, for the first
-- time at `owed_since`; `last_error` says why. `missed` counts the times that were refused for good, or given up, and `last_missed`
-- says which one was the last, and why.
ALTER TABLE quantum.saga_schedules
    ADD COLUMN owed_time   timestamptz,
    ADD COLUMN owed_since  timestamptz,
    ADD COLUMN tries       integer NOT NULL DEFAULT 0,
    ADD COLUMN missed      bigint NOT NULL DEFAULT 0,
    ADD COLUMN last_missed json;

-- A start that an event has fired and that was refused. `due_at` is when it is tried again; null: a dead letter, which waits for
-- somebody. What the event said is in the log, at `position`.
CREATE TABLE quantum.saga_trigger_starts (
    tenant_id text COLLATE "C" NOT NULL,
    intent_id text COLLATE "C" NOT NULL,
    event_id  uuid NOT NULL,
    position  bigint NOT NULL,
    tries     integer NOT NULL,
    first_at  timestamptz NOT NULL,
    last_at   timestamptz NOT NULL,
    due_at    timestamptz,
    error     json NOT NULL,
    PRIMARY KEY (tenant_id, intent_id, event_id)
) WITH (fillfactor = 70);
CREATE INDEX saga_trigger_starts_by_due ON quantum.saga_trigger_starts (due_at) WHERE due_at IS NOT NULL;
CREATE INDEX saga_trigger_starts_by_position ON quantum.saga_trigger_starts (tenant_id, intent_id, position);
ALTER TABLE quantum.saga_trigger_starts ENABLE ROW LEVEL SECURITY;
ALTER TABLE quantum.saga_trigger_starts FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant_rows ON quantum.saga_trigger_starts FOR SELECT TO quantum_app
    USING (tenant_id = (SELECT quantum.current_tenant()));
CREATE POLICY tenant_retries ON quantum.saga_trigger_starts FOR UPDATE TO quantum_app
    USING (tenant_id = (SELECT quantum.current_tenant())) WITH CHECK (tenant_id = (SELECT quantum.current_tenant()));
CREATE POLICY tenant_discards ON quantum.saga_trigger_starts FOR DELETE TO quantum_app
    USING (tenant_id = (SELECT quantum.current_tenant()));
CREATE POLICY platform_rows ON quantum.saga_trigger_starts TO quantum_platform USING (true) WITH CHECK (true);
GRANT SELECT, DELETE, UPDATE (due_at, tries) ON quantum.saga_trigger_starts TO quantum_app;
GRANT SELECT, INSERT, UPDATE, DELETE ON quantum.saga_trigger_starts TO quantum_platform;

DROP FUNCTION quantum.read_schedule, quantum.read_trigger;
CREATE FUNCTION quantum.read_schedule(tenant text, intent text)
    RETURNS TABLE (
        runs bigint, passed_over bigint, last_time timestamptz, last_execution_id text, last_error json, owed_time timestamptz,
        owed_since timestamptz, tries integer, look_at timestamptz, missed bigint, last_missed json
    )
    LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
BEGIN
    PERFORM set_config('app.tenant_id', tenant, true);
    RETURN QUERY
        SELECT s.runs, s.passed_over, s.last_time, s.last_execution_id, s.last_error, s.owed_time, s.owed_since, s.tries, s.look_at,
               s.missed, s.last_missed
          FROM quantum.saga_schedules AS s WHERE s.tenant_id = tenant AND s.intent_id = intent;
END
$$;

-- `waiting` starts are tried again by themselves; `dead_letters` are not.
CREATE FUNCTION quantum.read_trigger(tenant text, intent text)
    RETURNS TABLE (
        runs bigint, last_at timestamptz, last_event_id uuid, last_execution_id text, last_error json, waiting bigint,
        dead_letters bigint
    )
    LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
BEGIN
    PERFORM set_config('app.tenant_id', tenant, true);
    RETURN QUERY
        SELECT t.runs, t.last_at, t.last_event_id, t.last_execution_id, t.last_error, owed.waiting, owed.dead
          FROM quantum.saga_triggers AS t CROSS JOIN LATERAL (
            SELECT count(o.due_at) AS waiting, count(*) - count(o.due_at) AS dead FROM quantum.saga_trigger_starts AS o
             WHERE o.tenant_id = tenant AND o.intent_id = intent) AS owed
         WHERE t.tenant_id = tenant AND t.intent_id = intent;
END
$$;

-- Refused starts of an intent's trigger behind a position, in the order of their events; dead letters alone, or those that wait.
CREATE FUNCTION quantum.list_trigger_starts(tenant text, intent text, behind bigint, at_most integer)
    RETURNS TABLE (event_id uuid, "position" bigint, tries integer, first_at timestamptz, last_at timestamptz, error json)
    LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
BEGIN
    PERFORM set_config('app.tenant_id', tenant, true);
    RETURN QUERY
        SELECT o.event_id, o.position, o.tries, o.first_at, o.last_at, o.error FROM quantum.saga_trigger_starts AS o
         WHERE o.tenant_id = tenant AND o.intent_id = intent AND o.due_at IS NULL AND o.position > behind
         ORDER BY o.position LIMIT at_most;
END
$$;

-- Dead letters of an intent's trigger are tried again, or forgotten: those of the events named, or all. How many.
CREATE FUNCTION quantum.retry_trigger_starts(tenant text, intent text, events uuid[], present timestamptz) RETURNS integer
    LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    count integer;
BEGIN
    PERFORM set_config('app.tenant_id', tenant, true);
    UPDATE quantum.saga_trigger_starts AS o SET due_at = present, tries = 0
     WHERE o.tenant_id = tenant AND o.intent_id = intent AND o.due_at IS NULL AND (events IS NULL OR o.event_id = ANY (events));
    GET DIAGNOSTICS count = ROW_COUNT;
    RETURN count;
END
$$;
CREATE FUNCTION quantum.discard_trigger_starts(tenant text, intent text, events uuid[]) RETURNS integer
    LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    count integer;
BEGIN
    PERFORM set_config('app.tenant_id', tenant, true);
    DELETE FROM quantum.saga_trigger_starts AS o
     WHERE o.tenant_id = tenant AND o.intent_id = intent AND o.due_at IS NULL AND (events IS NULL OR o.event_id = ANY (events));
    GET DIAGNOSTICS count = ROW_COUNT;
    RETURN count;
END
$$;
REVOKE ALL ON FUNCTION quantum.read_schedule, quantum.read_trigger, quantum.list_trigger_starts, quantum.retry_trigger_starts,
    quantum.discard_trigger_starts FROM PUBLIC;
GRANT EXECUTE ON FUNCTION quantum.read_schedule, quantum.read_trigger, quantum.list_trigger_starts, quantum.retry_trigger_starts,
    quantum.discard_trigger_starts TO quantum_app;
