-- intent_ref: event-store.claims
-- Values that only one stream of a tenant may hold at a time (an intent's name), taken and released inside the append.
CREATE TABLE quantum.claims (
    tenant_id text COLLATE "C" NOT NULL,
    scope     text COLLATE "C" NOT NULL,
    value     text COLLATE "C" NOT NULL,
    stream_id text COLLATE "C" NOT NULL,
    PRIMARY KEY (tenant_id, scope, value)
);

ALTER TABLE quantum.claims ENABLE ROW LEVEL SECURITY;
ALTER TABLE quantum.claims FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant_rows ON quantum.claims FOR SELECT TO quantum_app
    USING (tenant_id = (SELECT quantum.current_tenant()));
CREATE POLICY batch_rows ON quantum.claims TO quantum_log_writer
    USING ((SELECT quantum.batch_tenants()) @> ARRAY[tenant_id])
    WITH CHECK ((SELECT quantum.batch_tenants()) @> ARRAY[tenant_id]);

GRANT SELECT ON quantum.claims TO quantum_app;
GRANT SELECT, INSERT, DELETE ON quantum.claims TO quantum_log_writer;
