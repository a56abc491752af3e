-- intent_ref: sagas.circuits
-- The circuit breakers of modules' endpoints, as the processes that call modules see them: each has breakers of its own.
--
-- A row is written when a breaker changes, and again every minute while it is not closed, so what a process leaves behind when it
-- dies expires. `endpoint` is the SHA-256 of the module's address, which may be long and is nobody's business here.
CREATE TABLE quantum.module_circuits (
    tenant_id     text COLLATE "C" NOT NULL,
    endpoint      text COLLATE "C" NOT NULL,
    process       text COLLATE "C" NOT NULL,
    state         text COLLATE "C" NOT NULL, -- closed, open or half-open
    since         timestamptz NOT NULL,
    failures      integer NOT NULL,
    next_probe_at timestamptz,
    expires_at    timestamptz NOT NULL,
    PRIMARY KEY (tenant_id, endpoint, process)
) WITH (fillfactor = 70);
CREATE INDEX module_circuits_by_expiry ON quantum.module_circuits (expires_at);
ALTER TABLE quantum.module_circuits ENABLE ROW LEVEL SECURITY;
ALTER TABLE quantum.module_circuits FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant_rows ON quantum.module_circuits FOR SELECT TO quantum_app
    USING (tenant_id = (SELECT quantum.current_tenant()));
CREATE POLICY platform_rows ON quantum.module_circuits TO quantum_platform USING (true) WITH CHECK (true);
GRANT SELECT ON quantum.module_circuits TO quantum_app;
GRANT SELECT, INSERT, UPDATE, DELETE ON quantum.module_circuits TO quantum_platform;

-- What is known of these addresses and has not expired. An open one whose time is up is half-open: the next call finds out.
CREATE FUNCTION quantum.read_module_circuits(tenant text, urls text[], at_most integer)
    RETURNS TABLE (url text, process text, state text, since timestamptz, failures integer, next_probe_at timestamptz)
    LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
BEGIN
    PERFORM set_config('app.tenant_id', tenant, true);
    RETURN QUERY
        SELECT wanted.url, c.process, CASE WHEN c.state = 'open' AND c.next_probe_at <= now() THEN 'half-open' ELSE c.state END,
               c.since, c.failures, CASE WHEN c.state = 'open' AND c.next_probe_at > now() THEN c.next_probe_at END
          FROM (SELECT DISTINCT one.url FROM unnest(urls) AS one (url)) AS wanted
          JOIN quantum.module_circuits AS c
            ON c.tenant_id = tenant AND c.endpoint = encode(sha256(convert_to(wanted.url, 'UTF8')), 'hex')
         WHERE c.expires_at > now()
         ORDER BY wanted.url, c.process LIMIT at_most;
END
$$;
REVOKE ALL ON FUNCTION quantum.read_module_circuits FROM PUBLIC;
GRANT EXECUTE ON FUNCTION quantum.read_module_circuits TO quantum_app;
