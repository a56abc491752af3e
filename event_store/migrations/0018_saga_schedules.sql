-- intent_ref: sagas.schedules
-- Intents that start executions by themselves: at times (saga_schedules) and upon events (saga_triggers).
--
-- A row says what the log says of the intent as of `stream_version`, so that events which come again change nothing. It outlives
-- the schedule or trigger itself for that reason. `look_at` is when somebody is to look at the schedule next (null: nothing is to
-- come, or it is paused or archived); whoever looks moves it on by half a minute first, so that one process does at a time, and
-- another takes over should it die. All times up to `dealt_until` have been dealt with.
CREATE TABLE quantum.saga_schedules (
    tenant_id         text COLLATE "C" NOT NULL,
    intent_id         text COLLATE "C" NOT NULL,
    stream_version    integer NOT NULL,
    intent_version    integer NOT NULL,
    schedule          json,                   -- null: the current version has none
    paused            boolean NOT NULL DEFAULT false,
    archived          boolean NOT NULL DEFAULT false,
    dealt_until       timestamptz NOT NULL,
    look_at           timestamptz,
    runs              bigint NOT NULL DEFAULT 0,
    passed_over       bigint NOT NULL DEFAULT 0,
    last_time         timestamptz,
    last_execution_id text COLLATE "C",
    last_error        json,
    PRIMARY KEY (tenant_id, intent_id)
) WITH (fillfactor = 70);
CREATE INDEX saga_schedules_by_look ON quantum.saga_schedules (look_at) WHERE look_at IS NOT NULL;
ALTER TABLE quantum.saga_schedules ENABLE ROW LEVEL SECURITY;
ALTER TABLE quantum.saga_schedules FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant_rows ON quantum.saga_schedules FOR SELECT TO quantum_app
    USING (tenant_id = (SELECT quantum.current_tenant()));
CREATE POLICY platform_rows ON quantum.saga_schedules TO quantum_platform USING (true) WITH CHECK (true);
GRANT SELECT, INSERT, UPDATE ON quantum.saga_schedules TO quantum_platform;
GRANT SELECT ON quantum.saga_schedules TO quantum_app;

-- `since_position` is where in the log the intent came to have a trigger; only later events start anything.
CREATE TABLE quantum.saga_triggers (
    tenant_id         text COLLATE "C" NOT NULL,
    intent_id         text COLLATE "C" NOT NULL,
    stream_version    integer NOT NULL,
    intent_version    integer NOT NULL,
    trigger           json,                   -- null: the current version has none
    archived          boolean NOT NULL DEFAULT false,
    since_position    bigint NOT NULL,
    runs              bigint NOT NULL DEFAULT 0,
    last_event_id     uuid,
    last_execution_id text COLLATE "C",
    last_at           timestamptz,
    last_error        json,
    PRIMARY KEY (tenant_id, intent_id)
) WITH (fillfactor = 70);
ALTER TABLE quantum.saga_triggers ENABLE ROW LEVEL SECURITY;
ALTER TABLE quantum.saga_triggers FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant_rows ON quantum.saga_triggers FOR SELECT TO quantum_app
    USING (tenant_id = (SELECT quantum.current_tenant()));
CREATE POLICY platform_rows ON quantum.saga_triggers TO quantum_platform USING (true) WITH CHECK (true);
GRANT SELECT, INSERT, UPDATE ON quantum.saga_triggers TO quantum_platform;
GRANT SELECT ON quantum.saga_triggers TO quantum_app;

-- How far the log has been read for triggers: where a process that starts goes on from.
CREATE TABLE quantum.saga_trigger_log (position bigint NOT NULL);
INSERT INTO quantum.saga_trigger_log VALUES (0);
GRANT SELECT, UPDATE ON quantum.saga_trigger_log TO quantum_platform;

CREATE FUNCTION quantum.read_schedule(tenant text, intent text)
    RETURNS TABLE (runs bigint, passed_over bigint, last_time timestamptz, last_execution_id text, last_error json)
    LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
BEGIN
    PERFORM set_config('app.tenant_id', tenant, true);
    RETURN QUERY
        SELECT s.runs, s.passed_over, s.last_time, s.last_execution_id, s.last_error FROM quantum.saga_schedules AS s
         WHERE s.tenant_id = tenant AND s.intent_id = intent;
END
$$;
CREATE FUNCTION quantum.read_trigger(tenant text, intent text)
    RETURNS TABLE (runs bigint, last_at timestamptz, last_event_id uuid, last_execution_id text, last_error json)
    LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
BEGIN
    PERFORM set_config('app.tenant_id', tenant, true);
    RETURN QUERY
        SELECT t.runs, t.last_at, t.last_event_id, t.last_execution_id, t.last_error FROM quantum.saga_triggers AS t
         WHERE t.tenant_id = tenant AND t.intent_id = intent;
END
$$;
REVOKE ALL ON FUNCTION quantum.read_schedule, quantum.read_trigger FROM PUBLIC;
GRANT EXECUTE ON FUNCTION quantum.read_schedule, quantum.read_trigger TO quantum_app;
