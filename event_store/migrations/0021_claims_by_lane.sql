-- intent_ref: sagas.limits
-- Claims go lane by lane, each by its first row: the choice of rows to take (`saga_choose`, migration 0049) and what is around it.
-- Everything here may be done again: it stood in migrations 0017 and 0019 for a while, so some databases have it.

CREATE INDEX IF NOT EXISTS saga_dispatches_slots_called_back ON quantum.saga_dispatches (tenant_id, slot_key)
    WHERE kind = 'callback' AND slot_key IS NOT NULL;

DROP FUNCTION IF EXISTS quantum.saga_choose(text[], text[], integer, integer, text[], integer[], timestamptz, integer, integer);
DROP FUNCTION quantum.saga_lanes;

-- The lanes with waiting rows, in their order, behind one of them, each with its first row. One look into the index for each lane,
-- however many rows it has. (Plans are kept: making one costs more than carrying it out. So none may depend on how large the
-- tables were when it was made.)
CREATE FUNCTION quantum.saga_lanes(behind_tenant text, behind_lane text, at_most integer)
    RETURNS TABLE (
        tenant_id text, lane text, kind text, slot_key text, slot_max integer, metered text, priority smallint,
        rank double precision
    )
    LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp SET plan_cache_mode = force_generic_plan
    SET enable_seqscan = off SET enable_bitmapscan = off
AS $$
#variable_conflict use_column
BEGIN
    RETURN QUERY
    WITH RECURSIVE found AS (
        (SELECT one.tenant_id, one.lane, one.kind, one.slot_key, one.slot_max, one.metered, one.priority, one.rank
           FROM quantum.saga_dispatches AS one
          WHERE one.rank IS NOT NULL AND one.lease_owner IS NULL AND (one.tenant_id, one.lane) > (behind_tenant, behind_lane)
          ORDER BY one.tenant_id, one.lane, one.priority, one.rank LIMIT 1)
        UNION ALL
        SELECT next.* FROM found CROSS JOIN LATERAL (
            SELECT one.tenant_id, one.lane, one.kind, one.slot_key, one.slot_max, one.metered, one.priority, one.rank
              FROM quantum.saga_dispatches AS one
             WHERE one.rank IS NOT NULL AND one.lease_owner IS NULL AND (one.tenant_id, one.lane) > (found.tenant_id, found.lane)
             ORDER BY one.tenant_id, one.lane, one.priority, one.rank LIMIT 1) AS next
    )
    SELECT found.* FROM found LIMIT at_most;
END
$$;

-- Gives ranks to rows that are due, and frees what dead workers held (it goes first: it has waited already). As in migration
-- 0016, but row by row through indexes: a plan that was made for a small table and is carried out on a large one joined each row
-- with each, which took seconds for some thousands.
CREATE OR REPLACE FUNCTION quantum.saga_wake(at_most integer, present timestamptz) RETURNS void
    LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp SET plan_cache_mode = force_generic_plan
    SET enable_seqscan = off SET enable_bitmapscan = off SET enable_hashjoin = off SET enable_mergejoin = off
AS $$
DECLARE
    now_virtual double precision := (SELECT rank FROM quantum.saga_virtual_time);
    rows tid[];
    tenants text[];
    numbers bigint[];
    counts bigint[];
BEGIN
    UPDATE quantum.saga_dispatches AS held SET lease_owner = NULL, rank = now_virtual
     WHERE held.lease_owner IS NOT NULL
       AND NOT EXISTS (SELECT FROM quantum.saga_workers AS w WHERE w.worker = held.lease_owner AND w.alive_until > now());
    SELECT array_agg(numbered.row_id), array_agg(numbered.tenant_id), array_agg(numbered.number), array_agg(numbered.count)
      INTO rows, tenants, numbers, counts
      FROM (SELECT due.row_id, due.tenant_id, row_number() OVER (PARTITION BY due.tenant_id ORDER BY due.due_at) AS number,
                   count(*) OVER (PARTITION BY due.tenant_id) AS count
              FROM (SELECT one.ctid AS row_id, one.tenant_id, one.due_at FROM quantum.saga_dispatches AS one
                     WHERE one.rank IS NULL AND one.lease_owner IS NULL AND one.due_at <= present
                     ORDER BY one.due_at LIMIT at_most FOR UPDATE SKIP LOCKED) AS due) AS numbered;
    IF rows IS NULL THEN
        RETURN;
    END IF;
    INSERT INTO quantum.saga_tenants AS known (tenant_id, last_rank)
    SELECT DISTINCT due.tenant_id, now_virtual + due.count FROM unnest(tenants, counts) AS due (tenant_id, count)
        ON CONFLICT (tenant_id) DO UPDATE
       SET last_rank = greatest(known.last_rank, now_virtual) + (excluded.last_rank - now_virtual) / known.weight;
    UPDATE quantum.saga_dispatches AS one SET rank = known.last_rank - (due.count - due.number) / known.weight
      FROM unnest(rows, tenants, numbers, counts) AS due (row_id, tenant_id, number, count)
      JOIN quantum.saga_tenants AS known ON known.tenant_id = due.tenant_id
     WHERE one.ctid = due.row_id;
END
$$;

-- Leases up to `at_most` rows to a worker: by priority, then rank; of each tenant no more than the worker has room for
-- (`busy_room` for `busy_tenants`, else `tenant_room`), and than limits allow. `present` is the time; null is the database's own.
-- `steps_default` and `executions_default` hold for tenants of which nothing else is said; null is no limit.
CREATE OR REPLACE FUNCTION quantum.saga_claim(
    claimer text, at_most integer, tenant_room integer, busy_tenants text[], busy_room integer[], present timestamptz,
    steps_default integer, executions_default integer
)
    RETURNS SETOF quantum.saga_dispatches
    LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp SET plan_cache_mode = force_custom_plan
AS $$
DECLARE
    moment timestamptz;
    virtual quantum.saga_virtual_time;
    fresh tid[];
    over tid[];
    reached double precision;
    any_limited boolean;
    next_tenant text;
    next_lane text;
BEGIN
    PERFORM pg_advisory_xact_lock(20830, 0);
    moment := coalesce(present, clock_timestamp());
    PERFORM quantum.saga_wake(2000, moment);
    SELECT * INTO virtual FROM quantum.saga_virtual_time;
    LOOP
        SELECT array_agg(one.row_id) FILTER (WHERE NOT one.is_over AND one.row_id IS NOT NULL),
               array_agg(one.row_id) FILTER (WHERE one.is_over), max(one.rank), bool_or(one.is_limited),
               coalesce(max(one.last_tenant), ''), coalesce(max(one.last_lane), '')
          INTO fresh, over, reached, any_limited, next_tenant, next_lane
          FROM quantum.saga_choose(virtual.after_tenant, virtual.after_lane, 512, at_most, tenant_room, busy_tenants, busy_room,
                                   moment, steps_default, executions_default) AS one;
        EXIT WHEN over IS NULL;
        DELETE FROM quantum.saga_dispatches AS gone WHERE gone.ctid = ANY (over);
    END LOOP;
    IF (next_tenant, next_lane) <> (virtual.after_tenant, virtual.after_lane) THEN
        UPDATE quantum.saga_virtual_time SET after_tenant = next_tenant, after_lane = next_lane;
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

REVOKE ALL ON FUNCTION quantum.saga_lanes FROM PUBLIC;
GRANT EXECUTE ON FUNCTION quantum.saga_lanes TO quantum_platform;
