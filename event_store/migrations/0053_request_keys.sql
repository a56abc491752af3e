-- intent_ref: event-store.request-keys
-- Which request came under which idempotency key, and how it was answered, where no event says so: what changed nothing, and what
-- leaves its mark elsewhere than in the log.
--
-- A request that acts elsewhere than in the log is put down before it is carried out, by whoever carries it out and for as long as
-- that may take: the same request meanwhile finds it under way. Whoever was killed leaves a row that the next one takes over. With
-- its `status` a row is the answer. Rows go when `kept_until` has passed, and count for nothing from then on.
--
-- It takes the place of the table of requests about many executions, which were kept in the same way (migration 0050).
DROP FUNCTION quantum.read_bulk_request, quantum.begin_bulk_request, quantum.end_bulk_request;
DROP TABLE quantum.bulk_requests;

CREATE TABLE quantum.request_keys (
    tenant_id    text COLLATE "C" NOT NULL,
    command_id   uuid NOT NULL,                 -- follows from the key, who sent it, and where to
    request_hash text COLLATE "C" NOT NULL,     -- tells a repeat from another request under the same key
    holder       uuid NOT NULL,                 -- who carries it out, or did
    held_until   timestamptz NOT NULL,
    kept_until   timestamptz NOT NULL,
    about        json,                          -- what it is about, where whoever takes it over must not look for that again
    status       smallint,                      -- of the answer
    headers      json,                          -- of the answer: a list of names and values
    body         bytea,                         -- of the answer; null where it was too large to be kept
    PRIMARY KEY (tenant_id, command_id)
);
CREATE INDEX request_keys_by_end ON quantum.request_keys (kept_until);
ALTER TABLE quantum.request_keys ENABLE ROW LEVEL SECURITY;
ALTER TABLE quantum.request_keys FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant_rows ON quantum.request_keys TO quantum_app
    USING (tenant_id = (SELECT quantum.current_tenant())) WITH CHECK (tenant_id = (SELECT quantum.current_tenant()));
CREATE POLICY platform_rows ON quantum.request_keys TO quantum_platform USING (true) WITH CHECK (true);
GRANT SELECT, INSERT, UPDATE, DELETE ON quantum.request_keys TO quantum_app;
GRANT SELECT, DELETE ON quantum.request_keys TO quantum_platform;

-- How a request under a key was answered, if it has come before and the row still counts.
CREATE FUNCTION quantum.find_request(tenant text, command uuid)
    RETURNS TABLE (request_hash text, status smallint, headers json, body bytea)
    LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
BEGIN
    PERFORM set_config('app.tenant_id', tenant, true);
    RETURN QUERY
        SELECT k.request_hash, k.status, k.headers, k.body FROM quantum.request_keys AS k
         WHERE k.tenant_id = tenant AND k.command_id = command AND k.kept_until > now();
END
$$;

-- Puts a request down for `claimer`, who has so many seconds, or with its answer: no row where that is done, else the request that
-- has the key.
CREATE FUNCTION quantum.begin_request(
    tenant text, command uuid, hash text, claimer uuid, held_seconds double precision, kept_seconds double precision,
    told smallint, told_headers json, told_body bytea
) RETURNS TABLE (request_hash text, status smallint, headers json, body bytea)
    LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
BEGIN
    PERFORM set_config('app.tenant_id', tenant, true);
    FOR attempt IN 1 .. 8 LOOP
        INSERT INTO quantum.request_keys AS k
               (tenant_id, command_id, request_hash, holder, held_until, kept_until, status, headers, body)
        VALUES (tenant, command, hash, claimer, clock_timestamp() + make_interval(secs => held_seconds),
                clock_timestamp() + make_interval(secs => kept_seconds), told, told_headers, told_body)
            ON CONFLICT (tenant_id, command_id) DO UPDATE
           SET request_hash = excluded.request_hash, holder = excluded.holder, held_until = excluded.held_until,
               kept_until = excluded.kept_until, status = excluded.status, headers = excluded.headers, body = excluded.body,
               about = CASE WHEN k.kept_until > clock_timestamp() THEN k.about END
         WHERE k.kept_until <= clock_timestamp()
            OR k.status IS NULL AND k.held_until <= clock_timestamp() AND k.request_hash = excluded.request_hash;
        IF FOUND THEN
            RETURN;
        END IF;
        RETURN QUERY
            SELECT k.request_hash, k.status, k.headers, k.body FROM quantum.request_keys AS k
             WHERE k.tenant_id = tenant AND k.command_id = command;
        IF FOUND THEN
            RETURN;
        END IF;
        -- Whoever had it has given it up between the two.
    END LOOP;
    RETURN QUERY SELECT hash, NULL::smallint, NULL::json, NULL::bytea; -- so often in a row: as if it were under way
END
$$;

-- Keeps what a request is about, unless that is kept already; what it is then. Nothing where somebody else has it by now.
CREATE FUNCTION quantum.note_request(tenant text, command uuid, claimer uuid, said json) RETURNS json
    LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    noted json;
BEGIN
    PERFORM set_config('app.tenant_id', tenant, true);
    UPDATE quantum.request_keys AS k SET about = coalesce(k.about, said)
     WHERE k.tenant_id = tenant AND k.command_id = command AND k.holder = claimer AND k.status IS NULL
    RETURNING k.about INTO noted;
    RETURN noted;
END
$$;

-- Keeps the answer of whoever carried the request out, unless somebody else has it by now.
CREATE FUNCTION quantum.end_request(
    tenant text, command uuid, claimer uuid, told smallint, told_headers json, told_body bytea, kept_seconds double precision
) RETURNS void
    LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM set_config('app.tenant_id', tenant, true);
    UPDATE quantum.request_keys AS k
       SET status = told, headers = told_headers, body = told_body,
           kept_until = clock_timestamp() + make_interval(secs => kept_seconds)
     WHERE k.tenant_id = tenant AND k.command_id = command AND k.holder = claimer AND k.status IS NULL;
END
$$;

-- Gives a request up that came to nothing: the key is free, or where it is kept what it is about, free for the same request.
CREATE FUNCTION quantum.give_request_up(tenant text, command uuid, claimer uuid) RETURNS void
    LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM set_config('app.tenant_id', tenant, true);
    DELETE FROM quantum.request_keys AS k
     WHERE k.tenant_id = tenant AND k.command_id = command AND k.holder = claimer AND k.status IS NULL AND k.about IS NULL;
    UPDATE quantum.request_keys AS k SET held_until = now()
     WHERE k.tenant_id = tenant AND k.command_id = command AND k.holder = claimer AND k.status IS NULL;
END
$$;
REVOKE ALL ON FUNCTION quantum.find_request, quantum.begin_request, quantum.note_request, quantum.end_request,
    quantum.give_request_up FROM PUBLIC;
GRANT EXECUTE ON FUNCTION quantum.find_request, quantum.begin_request, quantum.note_request, quantum.end_request,
    quantum.give_request_up TO quantum_app;
