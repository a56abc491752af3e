-- intent_ref: sagas.limits
-- Limits on what tenants and actions may have under way, and rows taken by lanes, so that what a limit holds back holds back
-- nothing else.
--
-- A lane is what stands in one line behind a limit: in a tenant, the plain calls, those with one slot key, those of one metered
-- action, executions that wait for admission, and all the rest (timers and children, which no limit of the tenant holds back). A
-- claim looks at the first row of each lane, asks how many of the lane have room, and takes them by priority, then rank. However
-- many rows a limit holds back, they cost one look. `metered` is the action of a call that has limits of its own.
ALTER TABLE quantum.saga_dispatches
    ADD COLUMN metered text COLLATE "C",
    ADD COLUMN lane    text COLLATE "C" GENERATED ALWAYS AS (
        CASE kind WHEN 'call' THEN coalesce('key ' || slot_key, '') || coalesce(' action ' || metered, '')
                  WHEN 'admission' THEN 'admission' ELSE 'other' END) STORED;
DROP INDEX quantum.saga_dispatches_waiting;
CREATE INDEX saga_dispatches_waiting ON quantum.saga_dispatches (tenant_id, lane, priority, rank)
    WHERE rank IS NOT NULL AND lease_owner IS NULL;
CREATE INDEX saga_dispatches_metered ON quantum.saga_dispatches (tenant_id, metered)
    WHERE metered IS NOT NULL AND (lease_owner IS NOT NULL OR kind <> 'call');
CREATE INDEX saga_dispatches_called_back ON quantum.saga_dispatches (tenant_id) WHERE kind = 'callback';
CREATE INDEX saga_dispatches_readmitted ON quantum.saga_dispatches (tenant_id, execution_id)
    WHERE kind = 'admission' AND lease_owner IS NULL AND claims > 0;

-- What the log says of limits, as sagas read it: null where it says nothing. `last_limits` and `last_actions` are the versions of
-- the streams that the rows follow from.
ALTER TABLE quantum.saga_tenants
    ADD COLUMN steps_max      integer,
    ADD COLUMN executions_max integer,
    ADD COLUMN last_limits    integer NOT NULL DEFAULT 0,
    ADD COLUMN last_actions   integer NOT NULL DEFAULT 0;
CREATE INDEX saga_tenants_limited ON quantum.saga_tenants (tenant_id) WHERE steps_max IS NOT NULL;
CREATE POLICY tenant_rows ON quantum.saga_tenants FOR SELECT TO quantum_app
    USING (tenant_id = (SELECT quantum.current_tenant()));
GRANT SELECT ON quantum.saga_tenants TO quantum_app;

-- Actions with limits of their own. The bucket held `tokens` at `refilled_at`, and gains `rate_max` in `rate_seconds`; it holds
-- `rate_max` at most. `empty_until` is when the next token comes to a bucket without any.
CREATE TABLE quantum.saga_action_limits (
    tenant_id    text COLLATE "C" NOT NULL,
    action       text COLLATE "C" NOT NULL,
    concurrency  integer CHECK (concurrency > 0),
    rate_max     integer CHECK (rate_max > 0),
    rate_seconds double precision CHECK (rate_seconds > 0),
    tokens       double precision NOT NULL DEFAULT 0,
    refilled_at  timestamptz NOT NULL DEFAULT '-infinity',
    empty_until  timestamptz,
    PRIMARY KEY (tenant_id, action)
) WITH (fillfactor = 50);

-- Executions that have begun under a limit on how many may: a row appears with the admission and goes with the end.
CREATE TABLE quantum.saga_admissions (
    tenant_id    text COLLATE "C" NOT NULL,
    execution_id text COLLATE "C" NOT NULL,
    admitted_at  timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_id, execution_id)
);
CREATE INDEX saga_admissions_by_age ON quantum.saga_admissions (admitted_at);
ALTER TABLE quantum.saga_action_limits ENABLE ROW LEVEL SECURITY;
ALTER TABLE quantum.saga_action_limits FORCE ROW LEVEL SECURITY;
ALTER TABLE quantum.saga_admissions ENABLE ROW LEVEL SECURITY;
ALTER TABLE quantum.saga_admissions FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant_rows ON quantum.saga_action_limits FOR SELECT TO quantum_app
    USING (tenant_id = (SELECT quantum.current_tenant()));
CREATE POLICY tenant_rows ON quantum.saga_admissions FOR SELECT TO quantum_app
    USING (tenant_id = (SELECT quantum.current_tenant()));
CREATE POLICY platform_rows ON quantum.saga_action_limits TO quantum_platform USING (true) WITH CHECK (true);
CREATE POLICY platform_rows ON quantum.saga_admissions TO quantum_platform USING (true) WITH CHECK (true);
GRANT SELECT ON quantum.saga_action_limits, quantum.saga_admissions TO quantum_app;
GRANT SELECT, INSERT, UPDATE, DELETE ON quantum.saga_action_limits, quantum.saga_admissions TO quantum_platform;

-- Where there are more lanes than one claim looks at, the next claim goes on behind the last one it saw.
ALTER TABLE quantum.saga_virtual_time
    ADD COLUMN after_tenant text COLLATE "C" NOT NULL DEFAULT '',
    ADD COLUMN after_lane   text COLLATE "C" NOT NULL DEFAULT '';

-- Tokens in a bucket at `moment`.
CREATE FUNCTION quantum.saga_tokens(bucket quantum.saga_action_limits, moment timestamptz) RETURNS double precision
    LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp
AS $$
    SELECT CASE WHEN bucket.refilled_at = '-infinity' THEN bucket.rate_max
                ELSE least(bucket.rate_max, bucket.tokens + greatest(0, extract(epoch FROM moment - bucket.refilled_at))
                                            * bucket.rate_max / bucket.rate_seconds) END
$$;

-- Executions of a tenant that hold a place. One whose admission has been given back, because the worker that was about to tell
-- it died, stands in the line again and holds none.
CREATE FUNCTION quantum.saga_admitted(of_tenant text) RETURNS bigint
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
    SELECT (SELECT count(*) FROM quantum.saga_admissions AS held WHERE held.tenant_id = of_tenant)
         - (SELECT count(*) FROM quantum.saga_dispatches AS again
             WHERE again.tenant_id = of_tenant AND again.kind = 'admission' AND again.lease_owner IS NULL AND again.claims > 0
               AND EXISTS (SELECT FROM quantum.saga_admissions AS held
                            WHERE held.tenant_id = again.tenant_id AND held.execution_id = again.execution_id))
$$;

-- Calls of a tenant under way: those that workers are making, and those that modules have taken on to answer later.
CREATE FUNCTION quantum.saga_steps_under_way(of_tenant text) RETURNS bigint
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
    SELECT (SELECT count(*) FROM quantum.saga_dispatches AS held
             WHERE held.lease_owner IS NOT NULL AND held.kind = 'call' AND held.tenant_id = of_tenant)
         + (SELECT count(*) FROM quantum.saga_dispatches AS later
             WHERE later.kind = 'callback' AND later.tenant_id = of_tenant)
$$;

-- The first lanes with waiting rows, in their order, behind one of them.
CREATE FUNCTION quantum.saga_lanes(behind_tenant text, behind_lane text, at_most integer)
    RETURNS TABLE (tenant_id text, lane text)
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
    WITH RECURSIVE found AS (
        (SELECT one.tenant_id, one.lane FROM quantum.saga_dispatches AS one
          WHERE one.rank IS NOT NULL AND one.lease_owner IS NULL AND (one.tenant_id, one.lane) > (behind_tenant, behind_lane)
          ORDER BY one.tenant_id, one.lane LIMIT 1)
        UNION ALL
        SELECT next.tenant_id, next.lane FROM found CROSS JOIN LATERAL (
            SELECT one.tenant_id, one.lane FROM quantum.saga_dispatches AS one
             WHERE one.rank IS NOT NULL AND one.lease_owner IS NULL AND (one.tenant_id, one.lane) > (found.tenant_id, found.lane)
             ORDER BY one.tenant_id, one.lane LIMIT 1) AS next
    )
    SELECT found.tenant_id, found.lane FROM found LIMIT at_most
$$;

DROP FUNCTION quantum.saga_claim;

-- Which rows are to be taken: of each of `lanes` as many as there is room for, by priority, then rank. `is_over` where the row's
-- outcome is in the log already. Called by saga_claim alone, which lets in one claimer at a time.
CREATE FUNCTION quantum.saga_choose(
    lane_tenants text[], lane_names text[], at_most integer, tenant_room integer, busy_tenants text[], busy_room integer[],
    moment timestamptz, steps_default integer, executions_default integer
)
    RETURNS TABLE (row_id tid, rank double precision, is_over boolean, is_limited boolean)
    LANGUAGE sql VOLATILE SET search_path = pg_catalog, pg_temp
AS $$
    WITH firsts AS MATERIALIZED (
        SELECT lanes.tenant_id, lanes.lane, first.kind, first.slot_key, first.slot_max, first.metered
          FROM unnest(lane_tenants, lane_names) AS lanes (tenant_id, lane) CROSS JOIN LATERAL (
            SELECT one.kind, one.slot_key, one.slot_max, one.metered FROM quantum.saga_dispatches AS one
             WHERE one.tenant_id = lanes.tenant_id AND one.lane = lanes.lane AND one.rank IS NOT NULL AND one.lease_owner IS NULL
             ORDER BY one.priority, one.rank LIMIT 1) AS first
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
                      AND coalesce(known.steps_max, steps_default) IS NOT NULL) END AS steps_room,
               CASE WHEN of_lanes.admissions AND coalesce(known.executions_max, executions_default) IS NOT NULL
                    THEN coalesce(known.executions_max, executions_default) - quantum.saga_admitted(of_lanes.tenant_id)
                    END AS executions_room
          FROM (SELECT firsts.tenant_id, bool_or(firsts.kind = 'call') AS calls, bool_or(firsts.kind = 'admission') AS admissions
                  FROM firsts GROUP BY firsts.tenant_id) AS of_lanes
          LEFT JOIN quantum.saga_tenants AS known USING (tenant_id) LEFT JOIN calls USING (tenant_id)
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
          FROM (SELECT DISTINCT firsts.tenant_id, firsts.metered FROM firsts WHERE firsts.kind = 'call') AS asked
          JOIN quantum.saga_action_limits AS bucket ON bucket.tenant_id = asked.tenant_id AND bucket.action = asked.metered
    ), rooms AS MATERIALIZED (
        SELECT firsts.tenant_id, firsts.lane, tenants.room AS tenant_room, meters.room AS meter_room, slots.taken AS slots_taken,
               CASE firsts.kind WHEN 'call' THEN tenants.steps_room WHEN 'admission' THEN tenants.executions_room END AS kind_room,
               least(at_most, tenants.room, meters.room,
                     CASE firsts.kind WHEN 'call' THEN tenants.steps_room WHEN 'admission' THEN tenants.executions_room END,
                     CASE firsts.kind WHEN 'call' THEN firsts.slot_max - coalesce(slots.taken, 0) END)::integer AS room
          FROM firsts JOIN tenants USING (tenant_id)
          LEFT JOIN slots ON firsts.kind = 'call' AND slots.tenant_id = firsts.tenant_id AND slots.slot_key = firsts.slot_key
          LEFT JOIN meters ON firsts.kind = 'call' AND meters.tenant_id = firsts.tenant_id AND meters.action = firsts.metered
    ), open AS MATERIALIZED (
        SELECT rooms.*, count(*) OVER () AS lanes FROM rooms WHERE rooms.room > 0
    ), head AS MATERIALIZED (
        SELECT one.*, open.lane, open.tenant_room, open.kind_room, open.meter_room, open.slots_taken
          FROM open CROSS JOIN LATERAL (
            SELECT waits.ctid AS row_id, waits.tenant_id, waits.kind, waits.command_id, waits.priority, waits.rank, waits.metered,
                   waits.slot_key, waits.slot_max
              FROM quantum.saga_dispatches AS waits
             WHERE waits.tenant_id = open.tenant_id AND waits.lane = open.lane AND waits.rank IS NOT NULL
               AND waits.lease_owner IS NULL
             ORDER BY waits.priority, waits.rank LIMIT least(open.room, greatest(4, 4 * at_most / open.lanes))
               FOR UPDATE SKIP LOCKED) AS one
    ), in_lanes AS (
        SELECT head.*, row_number() OVER (PARTITION BY head.tenant_id, head.kind, head.slot_key ORDER BY head.priority, head.rank)
                       AS of_slot,
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
    ), chosen AS (
        SELECT in_tenants.* FROM in_tenants WHERE in_tenants.of_tenant <= in_tenants.tenant_room
         ORDER BY in_tenants.priority, in_tenants.rank LIMIT at_most
    )
    SELECT chosen.row_id, chosen.rank, chosen.kind <> 'child' AND EXISTS (
               SELECT FROM quantum.events AS e
                WHERE e.tenant_id = chosen.tenant_id AND e.command_id = chosen.command_id AND e.command_index = 0),
           chosen.metered IS NOT NULL OR chosen.kind = 'admission'
      FROM chosen
$$;

-- Leases up to `at_most` rows to a worker: by priority, then rank; of each tenant no more than the worker has room for
-- (`busy_room` for `busy_tenants`, else `tenant_room`), and than limits allow. `present` is the time; null is the database's own.
-- `steps_default` and `executions_default` hold for tenants of which nothing else is said; null is no limit.
CREATE FUNCTION quantum.saga_claim(
    claimer text, at_most integer, tenant_room integer, busy_tenants text[], busy_room integer[], present timestamptz,
    steps_default integer, executions_default integer
)
    RETURNS SETOF quantum.saga_dispatches
    LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp SET plan_cache_mode = force_custom_plan
AS $$
DECLARE
    lanes_max CONSTANT integer := 2000;
    moment timestamptz;
    virtual quantum.saga_virtual_time;
    lane_tenants text[];
    lane_names text[];
    fresh tid[];
    over tid[];
    reached double precision;
    any_limited boolean;
BEGIN
    PERFORM pg_advisory_xact_lock(20830, 0);
    moment := coalesce(present, clock_timestamp());
    PERFORM quantum.saga_wake(10000, moment);
    SELECT * INTO virtual FROM quantum.saga_virtual_time;
    LOOP
        SELECT array_agg(one.tenant_id), array_agg(one.lane) INTO lane_tenants, lane_names
          FROM quantum.saga_lanes(virtual.after_tenant, virtual.after_lane, lanes_max) AS one;
        EXIT WHEN lane_tenants IS NULL;
        SELECT array_agg(one.row_id) FILTER (WHERE NOT one.is_over), array_agg(one.row_id) FILTER (WHERE one.is_over),
               max(one.rank), bool_or(one.is_limited)
          INTO fresh, over, reached, any_limited
          FROM quantum.saga_choose(lane_tenants, lane_names, at_most, tenant_room, busy_tenants, busy_room, moment,
                                   steps_default, executions_default) AS one;
        EXIT WHEN over IS NULL;
        DELETE FROM quantum.saga_dispatches AS gone WHERE gone.ctid = ANY (over);
    END LOOP;
    IF cardinality(lane_tenants) = lanes_max THEN
        UPDATE quantum.saga_virtual_time SET after_tenant = lane_tenants[lanes_max], after_lane = lane_names[lanes_max];
    ELSIF virtual.after_tenant <> '' THEN
        UPDATE quantum.saga_virtual_time SET after_tenant = '', after_lane = '';
    END IF;
    IF fresh IS NULL THEN
        RETURN;
    END IF;
    IF reached > virtual.rank THEN
        UPDATE quantum.saga_virtual_time SET rank = reached;
    END IF;
    IF any_limited THEN
        INSERT INTO quantum.saga_admissions (tenant_id, execution_id)
        SELECT one.tenant_id, one.execution_id FROM quantum.saga_dispatches AS one
         WHERE one.ctid = ANY (fresh) AND one.kind = 'admission' ON CONFLICT DO NOTHING;
        UPDATE quantum.saga_action_limits AS bucket
           SET tokens = left_over.tokens, refilled_at = moment,
               empty_until = CASE WHEN left_over.tokens < 1
                                  THEN moment + make_interval(secs => (1 - left_over.tokens) * bucket.rate_seconds / bucket.rate_max)
                                  END
          FROM (SELECT full_one.tenant_id, full_one.action, quantum.saga_tokens(full_one, moment) - taken.count AS tokens
                  FROM (SELECT one.tenant_id, one.metered, count(*) AS count FROM quantum.saga_dispatches AS one
                         WHERE one.ctid = ANY (fresh) AND one.kind = 'call' AND one.metered IS NOT NULL
                         GROUP BY one.tenant_id, one.metered) AS taken
                  JOIN quantum.saga_action_limits AS full_one
                    ON full_one.tenant_id = taken.tenant_id AND full_one.action = taken.metered) AS left_over
         WHERE bucket.tenant_id = left_over.tenant_id AND bucket.action = left_over.action AND bucket.rate_max IS NOT NULL;
    END IF;
    RETURN QUERY
        UPDATE quantum.saga_dispatches AS one SET lease_owner = claimer, claims = one.claims + 1, rank = NULL
         WHERE one.ctid = ANY (fresh) RETURNING one.*;
END
$$;

-- The limits an execution meets, as its tenant sees them: of what at most how much, how much there is, and since when or how far.
-- `admission` (ahead: executions before it in the line), `steps`, and of each metered action `concurrency` and `rate`.
CREATE FUNCTION quantum.explain_limits(tenant text, execution text, steps_default integer, executions_default integer)
    RETURNS TABLE (
        kind text, action text, most integer, taken bigint, per_seconds double precision, available_at timestamptz, ahead bigint
    )
    LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp SET plan_cache_mode = force_custom_plan
AS $$
#variable_conflict use_column
DECLARE
    known quantum.saga_tenants;
    steps_max integer;
    executions_max integer;
BEGIN
    PERFORM set_config('app.tenant_id', tenant, true);
    SELECT * INTO known FROM quantum.saga_tenants AS t WHERE t.tenant_id = tenant;
    steps_max := coalesce(known.steps_max, steps_default);
    executions_max := coalesce(known.executions_max, executions_default);
    RETURN QUERY
        SELECT 'admission', NULL::text, executions_max, quantum.saga_admitted(tenant), NULL::double precision, NULL::timestamptz,
               (SELECT count(*) FROM (
                    SELECT FROM quantum.saga_dispatches AS other
                     WHERE other.tenant_id = tenant AND other.lane = 'admission' AND other.rank IS NOT NULL
                       AND other.lease_owner IS NULL AND (other.priority, other.rank) < (mine.priority, mine.rank)
                     LIMIT 10000) AS before)
          FROM quantum.saga_dispatches AS mine
         WHERE mine.tenant_id = tenant AND mine.execution_id = execution AND mine.kind = 'admission'
        UNION ALL
        SELECT 'steps', NULL, steps_max, quantum.saga_steps_under_way(tenant), NULL, NULL, NULL WHERE steps_max IS NOT NULL
        UNION ALL
        SELECT limited.kind, bucket.action, limited.most, limited.taken, limited.per_seconds, limited.available_at, NULL
          FROM quantum.saga_action_limits AS bucket CROSS JOIN LATERAL (
            SELECT 'rate' AS kind, bucket.rate_max AS most, NULL::bigint AS taken, bucket.rate_seconds AS per_seconds,
                   bucket.empty_until AS available_at
             WHERE bucket.rate_max IS NOT NULL
            UNION ALL
            SELECT 'concurrency', bucket.concurrency,
                   (SELECT count(*) FROM quantum.saga_dispatches AS held
                     WHERE held.tenant_id = tenant AND held.metered = bucket.action AND held.metered IS NOT NULL
                       AND (held.lease_owner IS NOT NULL OR held.kind <> 'call')), NULL, NULL
             WHERE bucket.concurrency IS NOT NULL) AS limited
         WHERE bucket.tenant_id = tenant AND bucket.action IN (
               SELECT mine.metered FROM quantum.saga_dispatches AS mine
                WHERE mine.tenant_id = tenant AND mine.execution_id = execution AND mine.metered IS NOT NULL);
END
$$;
REVOKE ALL ON FUNCTION quantum.saga_tokens, quantum.saga_admitted, quantum.saga_steps_under_way, quantum.saga_lanes,
    quantum.saga_choose, quantum.saga_claim, quantum.explain_limits FROM PUBLIC;
GRANT EXECUTE ON FUNCTION quantum.saga_tokens, quantum.saga_admitted, quantum.saga_steps_under_way, quantum.saga_lanes,
    quantum.saga_choose, quantum.saga_claim, quantum.explain_limits TO quantum_platform;
GRANT EXECUTE ON FUNCTION quantum.saga_tokens, quantum.saga_admitted, quantum.saga_steps_under_way, quantum.explain_limits
    TO quantum_app;
