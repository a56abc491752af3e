-- intent_ref: event-store.snapshots
-- The folded state of a long stream, so that loading it reads only what came after. Disposable: `shape` names the state's
-- fields, and a snapshot of another shape is not used. The newest one a stream is kept.
CREATE TABLE quantum.snapshots (
    tenant_id text COLLATE "C" NOT NULL,
    stream_id text COLLATE "C" NOT NULL,
    version   integer NOT NULL,
    shape     text COLLATE "C" NOT NULL,
    state     bytea NOT NULL,
    PRIMARY KEY (tenant_id, stream_id)
);

ALTER TABLE quantum.snapshots ENABLE ROW LEVEL SECURITY;
ALTER TABLE quantum.snapshots FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant_rows ON quantum.snapshots
    USING (tenant_id = (SELECT quantum.current_tenant())) WITH CHECK (tenant_id = (SELECT quantum.current_tenant()));
GRANT SELECT, INSERT, UPDATE ON quantum.snapshots TO quantum_app, quantum_platform;
