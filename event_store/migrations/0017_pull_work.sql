-- intent_ref: sagas.pull-work
-- Work that a module's workers fetch: a row of kind `pull` is offered under its `action` until a worker leases it.
--
-- Nobody's: `lease_until` is null. A lease is the token it was handed out under; whoever gets the row next gets another token, so
-- a late answer to a lost lease finds no row. An expired lease still holds until somebody else has the row. `queue_by` is null
-- once the row has been handed out the first time; from then on `due_at` is the end of the attempt's time (`work_seconds` later).
ALTER TABLE quantum.saga_dispatches
    ADD COLUMN action        text COLLATE "C",
    ADD COLUMN lease_token   uuid,
    ADD COLUMN lease_until   timestamptz,
    ADD COLUMN lease_seconds double precision,
    ADD COLUMN work_seconds  double precision,
    ADD COLUMN offered_at    timestamptz;
CREATE INDEX saga_dispatches_offered ON quantum.saga_dispatches (tenant_id, action, priority, offered_at)
    WHERE kind = 'pull' AND lease_until IS NULL AND lease_owner IS NULL;
CREATE INDEX saga_dispatches_fetched ON quantum.saga_dispatches (tenant_id, lease_until)
    WHERE kind = 'pull' AND lease_until IS NOT NULL;

-- Workers come in through the APIs, so their leases are under row-level security: of a tenant's rows, those to be fetched.
CREATE POLICY tenant_leases ON quantum.saga_dispatches FOR UPDATE TO quantum_app
    USING (kind = 'pull' AND tenant_id = (SELECT quantum.current_tenant()))
    WITH CHECK (kind = 'pull' AND tenant_id = (SELECT quantum.current_tenant()));
CREATE POLICY tenant_answers ON quantum.saga_dispatches FOR DELETE TO quantum_app
    USING (kind = 'pull' AND tenant_id = (SELECT quantum.current_tenant()));
GRANT SELECT, DELETE, UPDATE (lease_token, lease_until, claims, due_at, queue_by) ON quantum.saga_dispatches TO quantum_app;

-- Leases up to `at_most` rows to whoever asks, by priority, then age; of each slot key no more than may be under way. One at a
-- time in a tenant, so that the counts hold. `present` is the time; null is the database's own.
CREATE FUNCTION quantum.fetch_work(of_tenant text, wanted text[], at_most integer, present timestamptz)
    RETURNS SETOF quantum.saga_dispatches
    LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp SET plan_cache_mode = force_custom_plan
AS $$
DECLARE
    moment CONSTANT timestamptz := coalesce(present, clock_timestamp());
BEGIN
    PERFORM set_config('app.tenant_id', of_tenant, true);
    PERFORM pg_advisory_xact_lock(20832, hashtext(of_tenant));
    UPDATE quantum.saga_dispatches AS one SET lease_until = NULL
     WHERE one.tenant_id = of_tenant AND one.kind = 'pull' AND one.lease_until <= moment;
    RETURN QUERY
    WITH held AS MATERIALIZED (
        SELECT busy.slot_key, count(*) AS count
          FROM (SELECT one.slot_key FROM quantum.saga_dispatches AS one
                 WHERE one.tenant_id = of_tenant AND one.kind = 'pull' AND one.lease_until IS NOT NULL
                   AND one.lease_owner IS NULL AND one.slot_key IS NOT NULL
                UNION ALL
                SELECT one.slot_key FROM quantum.saga_dispatches AS one
                 WHERE one.tenant_id = of_tenant AND one.lease_owner IS NOT NULL AND one.slot_key IS NOT NULL) AS busy
         GROUP BY busy.slot_key
    ), offered AS MATERIALIZED (
        SELECT head.* FROM unnest(wanted) AS asked (action) CROSS JOIN LATERAL (
            SELECT one.execution_id, one.step, one.attempt, one.priority, one.offered_at, one.slot_key, one.slot_max
              FROM quantum.saga_dispatches AS one
             WHERE one.tenant_id = of_tenant AND one.kind = 'pull' AND one.action = asked.action
               AND one.lease_until IS NULL AND one.lease_owner IS NULL AND one.rank IS NULL AND one.due_at > moment
               AND (one.slot_key IS NULL
                    OR coalesce((SELECT held.count FROM held WHERE held.slot_key = one.slot_key), 0) < one.slot_max)
             ORDER BY one.priority, one.offered_at LIMIT at_most FOR UPDATE SKIP LOCKED) AS head
    ), numbered AS (
        SELECT offered.*, coalesce(held.count, 0)
               + row_number() OVER (PARTITION BY offered.slot_key ORDER BY offered.priority, offered.offered_at) AS of_slot
          FROM offered LEFT JOIN held USING (slot_key)
    ), chosen AS (
        SELECT numbered.execution_id, numbered.step, numbered.attempt FROM numbered
         WHERE numbered.slot_key IS NULL OR numbered.of_slot <= numbered.slot_max
         ORDER BY numbered.priority, numbered.offered_at LIMIT at_most
    ), taken AS (
        UPDATE quantum.saga_dispatches AS one
           SET lease_token = gen_random_uuid(), claims = one.claims + 1, queue_by = NULL,
               due_at = CASE WHEN one.lease_token IS NULL THEN moment + make_interval(secs => one.work_seconds)
                             ELSE one.due_at END,
               lease_until = least(moment + make_interval(secs => one.lease_seconds),
                                   CASE WHEN one.lease_token IS NULL THEN moment + make_interval(secs => one.work_seconds)
                                        ELSE one.due_at END)
          FROM chosen
         WHERE one.tenant_id = of_tenant AND one.execution_id = chosen.execution_id AND one.step = chosen.step
           AND one.attempt = chosen.attempt
        RETURNING one.*
    )
    SELECT taken.* FROM taken ORDER BY taken.priority, taken.offered_at;
END
$$;

-- Seconds until a lease of the tenant ends, after which its row can be fetched again; null where there is none.
CREATE FUNCTION quantum.next_work_seconds(of_tenant text, wanted text[], present timestamptz) RETURNS double precision
    LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM set_config('app.tenant_id', of_tenant, true);
    RETURN (SELECT extract(epoch FROM one.lease_until - coalesce(present, clock_timestamp()))::double precision
              FROM quantum.saga_dispatches AS one
             WHERE one.tenant_id = of_tenant AND one.kind = 'pull' AND one.lease_until IS NOT NULL AND one.action = ANY (wanted)
             ORDER BY one.lease_until LIMIT 1);
END
$$;

-- Extends a lease, by `seconds` or as long as the step has it. No row: the lease is lost, or the attempt's time is over.
CREATE FUNCTION quantum.hold_work(
    of_tenant text, of_execution text, of_step text, of_attempt integer, token uuid, seconds double precision, present timestamptz
)
    RETURNS SETOF quantum.saga_dispatches
    LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    moment CONSTANT timestamptz := coalesce(present, clock_timestamp());
BEGIN
    PERFORM set_config('app.tenant_id', of_tenant, true);
    RETURN QUERY
    UPDATE quantum.saga_dispatches AS one
       SET lease_until = CASE WHEN seconds IS NULL
                              THEN least(moment + make_interval(secs => one.lease_seconds), one.due_at)
                              ELSE moment + make_interval(secs => seconds) END
     WHERE one.tenant_id = of_tenant AND one.execution_id = of_execution AND one.step = of_step AND one.attempt = of_attempt
       AND one.kind = 'pull' AND one.lease_token = token AND one.lease_owner IS NULL AND one.rank IS NULL
       AND one.due_at > moment
    RETURNING one.*;
END
$$;

-- Gives a lease back: the row can be fetched at once, under another token.
CREATE FUNCTION quantum.release_work(of_tenant text, of_execution text, of_step text, of_attempt integer, token uuid)
    RETURNS boolean
    LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM set_config('app.tenant_id', of_tenant, true);
    UPDATE quantum.saga_dispatches AS one SET lease_until = NULL, lease_token = gen_random_uuid()
     WHERE one.tenant_id = of_tenant AND one.execution_id = of_execution AND one.step = of_step AND one.attempt = of_attempt
       AND one.kind = 'pull' AND one.lease_token = token AND one.lease_owner IS NULL;
    RETURN FOUND;
END
$$;

-- The attempt is over: its outcome is in the log, or nobody waits for it.
CREATE FUNCTION quantum.drop_work(of_tenant text, of_execution text, of_step text, of_attempt integer, token uuid) RETURNS void
    LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM set_config('app.tenant_id', of_tenant, true);
    DELETE FROM quantum.saga_dispatches AS one
     WHERE one.tenant_id = of_tenant AND one.execution_id = of_execution AND one.step = of_step AND one.attempt = of_attempt
       AND one.kind = 'pull' AND one.lease_token = token;
END
$$;
REVOKE ALL ON FUNCTION quantum.fetch_work, quantum.next_work_seconds, quantum.hold_work, quantum.release_work, quantum.drop_work
    FROM PUBLIC;
GRANT EXECUTE ON FUNCTION quantum.fetch_work, quantum.next_work_seconds, quantum.hold_work, quantum.release_work, quantum.drop_work
    TO quantum_app;
