-- intent_ref: sagas.pull-work
-- Work that a worker has fetched is a step under way: it counts for the tenant's limit on steps, in the claims of the sagas and
-- when workers fetch more. What is offered and not fetched counts for nothing. A tenant without a limit pays for none of it.
--
-- `lease_holder` is who fetched it, as its token says; `lease_expired` says that whoever had it last has fallen silent.
ALTER TABLE quantum.saga_dispatches
    ADD COLUMN lease_holder  text COLLATE "C",
    ADD COLUMN lease_expired boolean NOT NULL DEFAULT false;
GRANT UPDATE (lease_holder, lease_expired) ON quantum.saga_dispatches TO quantum_app;

-- Steps of a tenant under way at `moment`: calls that sagas make, those that modules have taken on to answer later, and what
-- workers have fetched. A lease that has ended counts no more, although its worker may still be heard.
CREATE FUNCTION quantum.saga_steps_under_way(of_tenant text, moment timestamptz) RETURNS bigint
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
    SELECT (SELECT count(*) FROM quantum.saga_dispatches AS held
             WHERE held.lease_owner IS NOT NULL AND held.kind = 'call' AND held.tenant_id = of_tenant)
         + (SELECT count(*) FROM quantum.saga_dispatches AS later
             WHERE later.kind = 'callback' AND later.tenant_id = of_tenant)
         + (SELECT count(*) FROM quantum.saga_dispatches AS fetched
             WHERE fetched.kind = 'pull' AND fetched.tenant_id = of_tenant AND fetched.lease_until > moment
               AND fetched.lease_owner IS NULL)
$$;
CREATE OR REPLACE FUNCTION quantum.saga_steps_under_way(of_tenant text) RETURNS bigint
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
    SELECT quantum.saga_steps_under_way(of_tenant, now())
$$;

-- As in migration 0019, and what workers have fetched is under way too. That is counted for tenants with a limit alone.
CREATE OR REPLACE FUNCTION quantum.saga_choose(
    behind_tenant text, behind_lane text, lanes_max integer, at_most integer, tenant_room integer, busy_tenants text[],
    busy_room integer[], moment timestamptz, steps_default integer, executions_default integer
)
    RETURNS TABLE (row_id tid, rank double precision, is_over boolean, is_limited boolean, last_tenant text, last_lane text)
    LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp SET plan_cache_mode = force_generic_plan
    SET enable_seqscan = off SET enable_bitmapscan = off
AS $$
#variable_conflict use_column
BEGIN
    RETURN QUERY
    WITH firsts AS MATERIALIZED (
        SELECT * FROM quantum.saga_lanes(behind_tenant, behind_lane, lanes_max)
    ), calls AS MATERIALIZED (
        SELECT held.tenant_id, count(*) AS taken FROM quantum.saga_dispatches AS held
         WHERE held.lease_owner IS NOT NULL AND held.kind = 'call'
           AND (steps_default IS NOT NULL
                OR EXISTS (SELECT FROM quantum.saga_tenants AS limited WHERE limited.steps_max IS NOT NULL))
         GROUP BY held.tenant_id
    ), tenants AS MATERIALIZED (
        SELECT of_lanes.tenant_id, coalesce(busy_room[array_position(busy_tenants, of_lanes.tenant_id)], tenant_room) AS room,
               coalesce(known.steps_max, steps_default) - CASE WHEN of_lanes.calls THEN coalesce(calls.taken, 0) + (
                   SELECT count(*) FROM quantum.saga_dispatches AS later
                    WHERE later.kind = 'callback' AND later.tenant_id = of_lanes.tenant_id
                      AND coalesce(known.steps_max, steps_default) IS NOT NULL) + (
                   SELECT count(*) FROM quantum.saga_dispatches AS fetched
                    WHERE fetched.kind = 'pull' AND fetched.tenant_id = of_lanes.tenant_id AND fetched.lease_until > moment
                      AND fetched.lease_owner IS NULL
                      AND coalesce(known.steps_max, steps_default) IS NOT NULL) END AS steps_room,
               CASE WHEN of_lanes.admissions AND coalesce(known.executions_max, executions_default) IS NOT NULL
                    THEN coalesce(known.executions_max, executions_default) - quantum.saga_admitted(of_lanes.tenant_id)
                    END AS executions_room
          FROM (SELECT firsts.tenant_id, bool_or(firsts.kind = 'call') AS calls, bool_or(firsts.kind = 'admission') AS admissions
                  FROM firsts GROUP BY firsts.tenant_id) AS of_lanes
          LEFT JOIN quantum.saga_tenants AS known ON known.tenant_id = of_lanes.tenant_id
          LEFT JOIN calls ON calls.tenant_id = of_lanes.tenant_id
    ), slots AS MATERIALIZED (
        SELECT held.tenant_id, held.slot_key, count(*) AS taken FROM quantum.saga_dispatches AS held
         WHERE held.slot_key IS NOT NULL AND (held.lease_owner IS NOT NULL OR held.kind <> 'call')
         GROUP BY held.tenant_id, held.slot_key
    ), meters AS MATERIALIZED (
        SELECT bucket.tenant_id, bucket.action, least(
                   bucket.concurrency - (
                       SELECT count(*) FROM quantum.saga_dispatches AS held
                        WHERE held.tenant_id = bucket.tenant_id AND held.metered = bucket.action
                          AND held.metered IS NOT NULL AND (held.lease_owner IS NOT NULL OR held.kind <> 'call')),
                   floor(quantum.saga_tokens(bucket, moment) + 1e-6)) AS room
          FROM (SELECT DISTINCT firsts.tenant_id, firsts.metered FROM firsts
                 WHERE firsts.kind = 'call' AND firsts.metered IS NOT NULL) AS asked
          JOIN quantum.saga_action_limits AS bucket ON bucket.tenant_id = asked.tenant_id AND bucket.action = asked.metered
    ), rooms AS MATERIALIZED (
        SELECT firsts.tenant_id, firsts.lane, firsts.priority, firsts.rank, tenants.room AS tenant_room,
               meters.room AS meter_room, slots.taken AS slots_taken,
               CASE firsts.kind WHEN 'call' THEN tenants.steps_room WHEN 'admission' THEN tenants.executions_room END AS kind_room,
               least(at_most, tenants.room, meters.room,
                     CASE firsts.kind WHEN 'call' THEN tenants.steps_room WHEN 'admission' THEN tenants.executions_room END,
                     CASE firsts.kind WHEN 'call' THEN firsts.slot_max - coalesce(slots.taken, 0) END)::integer AS room
          FROM firsts JOIN tenants ON tenants.tenant_id = firsts.tenant_id
          LEFT JOIN slots ON firsts.kind = 'call' AND slots.tenant_id = firsts.tenant_id AND slots.slot_key = firsts.slot_key
          LEFT JOIN meters ON firsts.kind = 'call' AND meters.tenant_id = firsts.tenant_id AND meters.action = firsts.metered
    ), open AS MATERIALIZED (
        -- The first `at_most` rows are in the `at_most` lanes whose first rows come first; some more for those that limits leave out.
        SELECT best.*, count(*) OVER () AS lanes FROM (
            SELECT rooms.* FROM rooms WHERE rooms.room > 0 ORDER BY rooms.priority, rooms.rank LIMIT at_most * 2 + 16) AS best
    ), head AS MATERIALIZED (
        SELECT one.*, open.tenant_room, open.kind_room, open.meter_room, open.slots_taken
          FROM open CROSS JOIN LATERAL (
            SELECT waits.ctid AS row_id, waits.tenant_id, waits.kind, waits.command_id, waits.priority, waits.rank, waits.metered,
                   waits.slot_key, waits.slot_max
              FROM quantum.saga_dispatches AS waits
             WHERE waits.tenant_id = open.tenant_id AND waits.lane = open.lane AND waits.rank IS NOT NULL
               AND waits.lease_owner IS NULL
             ORDER BY waits.priority, waits.rank LIMIT least(open.room, 1 + 4 * at_most / open.lanes)) AS one
    ), in_lanes AS (
        SELECT head.*,
               row_number() OVER (PARTITION BY head.tenant_id, head.kind, head.slot_key ORDER BY head.priority, head.rank) AS of_slot,
               row_number() OVER (PARTITION BY head.tenant_id, head.kind, head.metered ORDER BY head.priority, head.rank) AS of_meter
          FROM head
    ), in_kinds AS (
        SELECT in_lanes.*,
               row_number() OVER (PARTITION BY in_lanes.tenant_id, in_lanes.kind ORDER BY in_lanes.priority, in_lanes.rank) AS of_kind
          FROM in_lanes
         WHERE (in_lanes.kind <> 'call' OR in_lanes.slot_key IS NULL
                OR in_lanes.of_slot + coalesce(in_lanes.slots_taken, 0) <= in_lanes.slot_max)
           AND (in_lanes.meter_room IS NULL OR in_lanes.of_meter <= in_lanes.meter_room)
    ), in_tenants AS (
        SELECT in_kinds.*, row_number() OVER (PARTITION BY in_kinds.tenant_id ORDER BY in_kinds.priority, in_kinds.rank) AS of_tenant
          FROM in_kinds WHERE in_kinds.kind_room IS NULL OR in_kinds.of_kind <= in_kinds.kind_room
    ), chosen AS MATERIALIZED (
        SELECT in_tenants.* FROM in_tenants WHERE in_tenants.of_tenant <= in_tenants.tenant_room
         ORDER BY in_tenants.priority, in_tenants.rank LIMIT at_most
    )
    SELECT taken.ctid, chosen.rank, chosen.kind <> 'child' AND EXISTS (
               SELECT FROM quantum.events AS e
                WHERE e.tenant_id = chosen.tenant_id AND e.command_id = chosen.command_id AND e.command_index = 0 OFFSET 0),
           chosen.metered IS NOT NULL OR chosen.kind = 'admission', NULL::text, NULL::text
      FROM chosen CROSS JOIN LATERAL (
        SELECT one.ctid FROM quantum.saga_dispatches AS one WHERE one.ctid = chosen.row_id FOR UPDATE SKIP LOCKED) AS taken
    UNION ALL
    SELECT NULL, NULL, false, false, last.tenant_id, last.lane
      FROM (SELECT firsts.tenant_id, firsts.lane FROM firsts ORDER BY firsts.tenant_id DESC, firsts.lane DESC LIMIT 1) AS last
     WHERE (SELECT count(*) FROM firsts) = lanes_max;
END
$$;

-- As in migration 0017. `holder` is whoever asks; `steps_default` is the limit on steps of tenants of which nothing else is said.
-- Where there is a limit, claims and fetches wait for each other while they count, but only when there is something to fetch: to
-- ask in vain holds up nobody. `was_silent`: whoever had it before let the lease end.
DROP FUNCTION quantum.fetch_work, quantum.next_work_seconds;
CREATE FUNCTION quantum.fetch_work(
    of_tenant text, wanted text[], at_most integer, holder text, present timestamptz, steps_default integer
)
    RETURNS TABLE (
        execution_id text, step text, attempt integer, due_at timestamptz, command_id uuid, event_id uuid, correlation_id text,
        traceparent text, priority smallint, slot_key text, queue_by timestamptz, lease_token uuid, lease_until timestamptz,
        lease_seconds double precision, claims integer, action text, was_silent boolean
    )
    LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp SET plan_cache_mode = force_custom_plan
AS $$
#variable_conflict use_column
DECLARE
    moment CONSTANT timestamptz := coalesce(present, clock_timestamp());
    room bigint := at_most;
    most integer;
BEGIN
    PERFORM set_config('app.tenant_id', of_tenant, true);
    PERFORM pg_advisory_xact_lock(20832, hashtext(of_tenant));
    most := coalesce((SELECT one.steps_max FROM quantum.saga_tenants AS one WHERE one.tenant_id = of_tenant), steps_default);
    IF most IS NOT NULL THEN
        IF NOT quantum.is_work_offered(of_tenant, wanted, moment) THEN
            RETURN;
        END IF;
        PERFORM pg_advisory_xact_lock(20830, 0);
        room := least(at_most, most - quantum.saga_steps_under_way(of_tenant, moment));
        IF room <= 0 THEN
            RETURN;
        END IF;
    END IF;
    UPDATE quantum.saga_dispatches AS one SET lease_until = NULL, lease_expired = true
     WHERE one.tenant_id = of_tenant AND one.kind = 'pull' AND one.lease_until <= moment AND one.lease_owner IS NULL;
    RETURN QUERY
    WITH held AS MATERIALIZED (
        SELECT busy.slot_key, count(*) AS count
          FROM (SELECT one.slot_key FROM quantum.saga_dispatches AS one
                 WHERE one.tenant_id = of_tenant AND one.kind = 'pull' AND one.lease_until IS NOT NULL
                   AND one.lease_owner IS NULL AND one.slot_key IS NOT NULL
                UNION ALL
                SELECT one.slot_key FROM quantum.saga_dispatches AS one
                 WHERE one.tenant_id = of_tenant AND one.lease_owner IS NOT NULL AND one.slot_key IS NOT NULL
                UNION ALL
                SELECT one.slot_key FROM quantum.saga_dispatches AS one
                 WHERE one.tenant_id = of_tenant AND one.kind = 'callback' AND one.lease_owner IS NULL
                   AND one.slot_key IS NOT NULL) AS busy
         GROUP BY busy.slot_key
    ), offered AS MATERIALIZED (
        SELECT head.* FROM unnest(wanted) AS asked (action) CROSS JOIN LATERAL (
            SELECT one.execution_id, one.step, one.attempt, one.priority, one.offered_at, one.slot_key, one.slot_max,
                   one.lease_expired
              FROM quantum.saga_dispatches AS one
             WHERE one.tenant_id = of_tenant AND one.kind = 'pull' AND one.action = asked.action
               AND one.lease_until IS NULL AND one.lease_owner IS NULL AND one.rank IS NULL AND one.due_at > moment
               AND (one.slot_key IS NULL
                    OR coalesce((SELECT held.count FROM held WHERE held.slot_key = one.slot_key), 0) < one.slot_max)
             ORDER BY one.priority, one.offered_at LIMIT room FOR UPDATE SKIP LOCKED) AS head
    ), numbered AS (
        SELECT offered.*, coalesce(held.count, 0)
               + row_number() OVER (PARTITION BY offered.slot_key ORDER BY offered.priority, offered.offered_at) AS of_slot
          FROM offered LEFT JOIN held USING (slot_key)
    ), chosen AS (
        SELECT numbered.execution_id, numbered.step, numbered.attempt, numbered.lease_expired FROM numbered
         WHERE numbered.slot_key IS NULL OR numbered.of_slot <= numbered.slot_max
         ORDER BY numbered.priority, numbered.offered_at LIMIT room
    ), taken AS (
        UPDATE quantum.saga_dispatches AS one
           SET lease_token = gen_random_uuid(), claims = one.claims + 1, queue_by = NULL, lease_holder = left(holder, 200),
               lease_expired = false,
               due_at = CASE WHEN one.lease_token IS NULL THEN moment + make_interval(secs => one.work_seconds)
                             ELSE one.due_at END,
               lease_until = least(moment + make_interval(secs => one.lease_seconds),
                                   CASE WHEN one.lease_token IS NULL THEN moment + make_interval(secs => one.work_seconds)
                                        ELSE one.due_at END)
          FROM chosen
         WHERE one.tenant_id = of_tenant AND one.execution_id = chosen.execution_id AND one.step = chosen.step
           AND one.attempt = chosen.attempt
        RETURNING one.*, chosen.lease_expired AS was_silent
    )
    SELECT taken.execution_id, taken.step, taken.attempt, taken.due_at, taken.command_id, taken.event_id, taken.correlation_id,
           taken.traceparent, taken.priority, taken.slot_key, taken.queue_by, taken.lease_token, taken.lease_until,
           taken.lease_seconds, taken.claims, taken.action, taken.was_silent
      FROM taken ORDER BY taken.priority, taken.offered_at;
END
$$;

-- Whether anything of these actions could be fetched, were there no limits.
CREATE FUNCTION quantum.is_work_offered(of_tenant text, wanted text[], moment timestamptz) RETURNS boolean
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
    SELECT EXISTS (SELECT FROM quantum.saga_dispatches AS one
                    WHERE one.tenant_id = of_tenant AND one.kind = 'pull' AND one.action = ANY (wanted)
                      AND one.lease_until IS NULL AND one.lease_owner IS NULL AND one.due_at > moment)
        OR EXISTS (SELECT FROM quantum.saga_dispatches AS one
                    WHERE one.tenant_id = of_tenant AND one.kind = 'pull' AND one.action = ANY (wanted)
                      AND one.lease_until <= moment AND one.lease_owner IS NULL AND one.due_at > moment)
$$;

-- Seconds until another look is worth while: a lease of the tenant ends, after which its row can be fetched again; or, where the
-- limit on steps keeps back what is offered, a moment, for there may be room any time. Null where there is no such time.
CREATE FUNCTION quantum.next_work_seconds(of_tenant text, wanted text[], present timestamptz, steps_default integer)
    RETURNS double precision
    LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    moment CONSTANT timestamptz := coalesce(present, clock_timestamp());
    most integer;
BEGIN
    PERFORM set_config('app.tenant_id', of_tenant, true);
    most := coalesce((SELECT one.steps_max FROM quantum.saga_tenants AS one WHERE one.tenant_id = of_tenant), steps_default);
    IF most IS NOT NULL AND quantum.saga_steps_under_way(of_tenant, moment) >= most
       AND quantum.is_work_offered(of_tenant, wanted, moment) THEN
        RETURN 0.25;
    END IF;
    RETURN (SELECT extract(epoch FROM one.lease_until - moment)::double precision
              FROM quantum.saga_dispatches AS one
             WHERE one.tenant_id = of_tenant AND one.kind = 'pull' AND one.lease_until IS NOT NULL AND one.lease_owner IS NULL
               AND one.action = ANY (wanted)
             ORDER BY one.lease_until LIMIT 1);
END
$$;

-- As in migration 0017; whoever gives work back does not have it any more.
CREATE OR REPLACE FUNCTION quantum.release_work(
    of_tenant text, of_execution text, of_step text, of_attempt integer, token uuid
)
    RETURNS boolean
    LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM set_config('app.tenant_id', of_tenant, true);
    UPDATE quantum.saga_dispatches AS one SET lease_until = NULL, lease_token = gen_random_uuid(), lease_holder = NULL
     WHERE one.tenant_id = of_tenant AND one.execution_id = of_execution AND one.step = of_step AND one.attempt = of_attempt
       AND one.kind = 'pull' AND one.lease_token = token AND one.lease_owner IS NULL;
    RETURN FOUND;
END
$$;

-- As in migration 0043; and of work for workers since when it is offered, who has it until when, and whether whoever had it last
-- has fallen silent. `slots_taken` counts what modules and workers are at as well.
DROP FUNCTION quantum.explain_execution;
CREATE FUNCTION quantum.explain_execution(tenant text, execution text, at_most integer)
    RETURNS TABLE (
        step text, attempt integer, kind text, due_at timestamptz, is_leased boolean, is_queued boolean, claims integer,
        priority smallint, ahead bigint, slot_key text, slot_max integer, slots_taken bigint, queue_by timestamptz,
        offered_at timestamptz, lease_until timestamptz, lease_holder text, was_silent boolean
    )
    LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp SET plan_cache_mode = force_custom_plan
AS $$
#variable_conflict use_column
BEGIN
    PERFORM set_config('app.tenant_id', tenant, true);
    RETURN QUERY
        WITH mine AS MATERIALIZED (
            SELECT d.* FROM quantum.saga_dispatches AS d
             WHERE d.tenant_id = tenant AND d.execution_id = execution
             ORDER BY d.step, d.attempt LIMIT at_most
        ), waiting AS MATERIALIZED (
            SELECT d.execution_id, d.step, d.attempt, row_number() OVER (ORDER BY d.priority, d.rank) - 1 AS ahead
              FROM (SELECT w.execution_id, w.step, w.attempt, w.priority, w.rank FROM quantum.saga_dispatches AS w
                     WHERE w.tenant_id = tenant AND w.rank IS NOT NULL AND w.lease_owner IS NULL
                       AND EXISTS (SELECT FROM mine WHERE mine.rank IS NOT NULL AND mine.lease_owner IS NULL)
                     ORDER BY w.priority, w.rank LIMIT 10000) AS d
        )
        SELECT mine.step, mine.attempt, mine.kind, mine.due_at, mine.lease_owner IS NOT NULL,
               mine.rank IS NOT NULL AND mine.lease_owner IS NULL, mine.claims, mine.priority,
               CASE WHEN mine.rank IS NOT NULL AND mine.lease_owner IS NULL THEN coalesce(waiting.ahead, 10000) END,
               mine.slot_key, mine.slot_max,
               CASE WHEN mine.slot_key IS NOT NULL THEN
                   (SELECT count(*) FROM quantum.saga_dispatches AS other
                     WHERE other.tenant_id = tenant AND other.slot_key = mine.slot_key
                       AND (other.lease_owner IS NOT NULL OR other.kind = 'callback'
                            OR (other.kind = 'pull' AND other.lease_until IS NOT NULL)))
               END, mine.queue_by, CASE WHEN mine.kind = 'pull' THEN mine.offered_at END, mine.lease_until, mine.lease_holder,
               mine.lease_expired
          FROM mine
          LEFT JOIN waiting ON waiting.execution_id = mine.execution_id AND waiting.step = mine.step
                           AND waiting.attempt = mine.attempt;
END
$$;
REVOKE ALL ON FUNCTION quantum.saga_steps_under_way(text, timestamptz), quantum.fetch_work, quantum.is_work_offered,
    quantum.next_work_seconds, quantum.explain_execution FROM PUBLIC;
GRANT EXECUTE ON FUNCTION quantum.saga_steps_under_way(text, timestamptz) TO quantum_app, quantum_platform;
GRANT EXECUTE ON FUNCTION quantum.fetch_work, quantum.is_work_offered, quantum.next_work_seconds TO quantum_app;
GRANT EXECUTE ON FUNCTION quantum.explain_execution TO quantum_app, quantum_platform;
