-- intent_ref: event-store.events
-- The log. Rows are only ever inserted, by quantum.append_events. `position` orders the whole log and may have gaps;
-- `version` orders one stream and has none. No unique key spans tenants, and none relies on there being a single table:
-- uniqueness is decided in append_events under locks, so that old segments can become partitions (docs/adr/0003).
-- It starts as if 0 had been given out, so that `last_value` is always the last position given out.
CREATE SEQUENCE quantum.event_position AS bigint MINVALUE 0;
SELECT setval('quantum.event_position', 0);

CREATE TABLE quantum.events (
    position      bigint NOT NULL DEFAULT nextval('quantum.event_position'),
    recorded_at   timestamptz NOT NULL DEFAULT now(),
    event_id      uuid NOT NULL,
    command_id    uuid NOT NULL,
    command_index integer NOT NULL,
    version       integer NOT NULL CHECK (version > 0),
    tenant_id     text COLLATE "C" NOT NULL,
    stream_id     text COLLATE "C" NOT NULL,
    topic         text COLLATE "C" NOT NULL,
    metadata      json NOT NULL,
    payload       bytea NOT NULL
);
CREATE INDEX events_by_position ON quantum.events (position);
CREATE UNIQUE INDEX events_by_stream ON quantum.events (stream_id, tenant_id, version);
CREATE UNIQUE INDEX events_by_command ON quantum.events (command_id, tenant_id, command_index);
CREATE INDEX events_by_tenant ON quantum.events (tenant_id, position);

ALTER TABLE quantum.events ENABLE ROW LEVEL SECURITY;
ALTER TABLE quantum.events FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant_rows ON quantum.events FOR SELECT TO quantum_app
    USING (tenant_id = (SELECT quantum.current_tenant()));
CREATE POLICY platform_rows ON quantum.events FOR SELECT TO quantum_platform
    USING (true);
-- Written so that no index can serve it: with `= ANY` the planner takes the tenants for a way in and reads whole tenants.
CREATE POLICY batch_rows ON quantum.events TO quantum_log_writer
    USING ((SELECT quantum.batch_tenants()) @> ARRAY[tenant_id])
    WITH CHECK ((SELECT quantum.batch_tenants()) @> ARRAY[tenant_id]);

GRANT SELECT ON quantum.events TO quantum_app, quantum_platform;
GRANT SELECT, INSERT ON quantum.events TO quantum_log_writer;
GRANT SELECT ON SEQUENCE quantum.event_position TO quantum_app, quantum_platform;
GRANT SELECT, USAGE ON SEQUENCE quantum.event_position TO quantum_log_writer;
