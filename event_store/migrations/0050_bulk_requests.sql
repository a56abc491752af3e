-- intent_ref: event-store.bulk-requests
-- Requests about many executions that came under an idempotency key: what each is about, and once it is through, its answer.
--
-- `found` is written before anything is done, so that a request which is repeated after a crash is about the same executions;
-- the command given to each has an id that follows from the request's, so it has one effect. Rows go after a while.
CREATE TABLE quantum.bulk_requests (
    tenant_id    text COLLATE "C" NOT NULL,
    command_id   uuid NOT NULL,
    request_hash text COLLATE "C" NOT NULL,
    found        json NOT NULL,
    answer       json,
    made_at      timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_id, command_id)
);
CREATE INDEX bulk_requests_by_age ON quantum.bulk_requests (made_at);
ALTER TABLE quantum.bulk_requests ENABLE ROW LEVEL SECURITY;
ALTER TABLE quantum.bulk_requests FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant_rows ON quantum.bulk_requests TO quantum_app
    USING (tenant_id = (SELECT quantum.current_tenant())) WITH CHECK (tenant_id = (SELECT quantum.current_tenant()));
CREATE POLICY platform_rows ON quantum.bulk_requests TO quantum_platform USING (true) WITH CHECK (true);
GRANT SELECT, INSERT, UPDATE (answer) ON quantum.bulk_requests TO quantum_app;
GRANT SELECT, DELETE ON quantum.bulk_requests TO quantum_platform;

CREATE FUNCTION quantum.read_bulk_request(tenant text, command uuid)
    RETURNS TABLE (request_hash text, found json, answer json)
    LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
BEGIN
    PERFORM set_config('app.tenant_id', tenant, true);
    RETURN QUERY
        SELECT b.request_hash, b.found, b.answer FROM quantum.bulk_requests AS b
         WHERE b.tenant_id = tenant AND b.command_id = command;
END
$$;

-- Keeps what a request is about, unless the same request has come before: then what that one was about.
CREATE FUNCTION quantum.begin_bulk_request(tenant text, command uuid, hash text, about json)
    RETURNS TABLE (request_hash text, found json, answer json)
    LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
BEGIN
    PERFORM set_config('app.tenant_id', tenant, true);
    INSERT INTO quantum.bulk_requests (tenant_id, command_id, request_hash, found) VALUES (tenant, command, hash, about)
        ON CONFLICT (tenant_id, command_id) DO NOTHING;
    RETURN QUERY SELECT * FROM quantum.read_bulk_request(tenant, command);
END
$$;

-- The first answer stays.
CREATE FUNCTION quantum.end_bulk_request(tenant text, command uuid, told json) RETURNS void
    LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM set_config('app.tenant_id', tenant, true);
    UPDATE quantum.bulk_requests AS b SET answer = told
     WHERE b.tenant_id = tenant AND b.command_id = command AND b.answer IS NULL;
END
$$;
REVOKE ALL ON FUNCTION quantum.read_bulk_request, quantum.begin_bulk_request, quantum.end_bulk_request FROM PUBLIC;
GRANT EXECUTE ON FUNCTION quantum.read_bulk_request, quantum.begin_bulk_request, quantum.end_bulk_request TO quantum_app;
