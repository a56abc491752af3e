-- intent_ref: sagas.execution
-- What an execution waits for, of whatever kind, in one table: a call to a module, a gate with or without a time, a child
-- execution, the end of its time. And the order in which it is taken: priorities first, then weighted fair queueing.
--
-- A row is asleep (`rank` is null) until it is due; then saga_wake gives it a rank, which is the virtual time at which its tenant
-- would be served if all waiting tenants shared the workers by their weights (start-time fair queueing: Goyal, Vin, Cheng 1996).
-- A tenant with 100,000 rows waiting so has ranks far ahead, and the single row of another comes next.
--
-- `kind`: call · gate (a time, a person, a signal: `attempt` is -1 less its number) · expiry (the step's time: 0) · deadline (the
-- execution's: no step, 0) · child · child_end (-1000 less the gate's number) · stop_child. `slot_key` and `slot_max` say how many
-- calls with that key may run at once in the tenant.
ALTER TABLE quantum.saga_dispatches
    ADD COLUMN kind      text COLLATE "C" NOT NULL DEFAULT 'call',
    ADD COLUMN priority  smallint NOT NULL DEFAULT 3,
    ADD COLUMN rank      double precision,
    ADD COLUMN slot_key  text COLLATE "C",
    ADD COLUMN slot_max  integer,
    ADD COLUMN queue_by  timestamptz,
    ADD COLUMN detail    json;
DROP INDEX quantum.saga_dispatches_by_due;
CREATE INDEX saga_dispatches_asleep ON quantum.saga_dispatches (due_at) WHERE rank IS NULL AND lease_owner IS NULL;
CREATE INDEX saga_dispatches_waiting ON quantum.saga_dispatches (priority, rank) WHERE rank IS NOT NULL AND lease_owner IS NULL;
CREATE INDEX saga_dispatches_leased ON quantum.saga_dispatches (lease_owner) WHERE lease_owner IS NOT NULL;
CREATE INDEX saga_dispatches_slots ON quantum.saga_dispatches (tenant_id, slot_key)
    WHERE slot_key IS NOT NULL AND (lease_owner IS NOT NULL OR kind <> 'call');

CREATE TABLE quantum.saga_tenants (
    tenant_id text COLLATE "C" PRIMARY KEY,
    weight    real NOT NULL DEFAULT 1 CHECK (weight > 0),
    last_rank double precision NOT NULL DEFAULT 0
) WITH (fillfactor = 50);
ALTER TABLE quantum.saga_tenants ENABLE ROW LEVEL SECURITY;
ALTER TABLE quantum.saga_tenants FORCE ROW LEVEL SECURITY;
CREATE POLICY platform_rows ON quantum.saga_tenants TO quantum_platform USING (true) WITH CHECK (true);
GRANT SELECT, INSERT, UPDATE, DELETE ON quantum.saga_tenants TO quantum_platform;

CREATE TABLE quantum.saga_virtual_time (rank double precision NOT NULL);
INSERT INTO quantum.saga_virtual_time VALUES (0);
GRANT SELECT, UPDATE ON quantum.saga_virtual_time TO quantum_platform;

-- Executions that have not ended: what the stall check goes round. It follows the log by itself, so that an execution of a second
-- is never in it.
CREATE TABLE quantum.saga_watch (position bigint NOT NULL);
INSERT INTO quantum.saga_watch VALUES (0);
GRANT SELECT, UPDATE ON quantum.saga_watch TO quantum_platform;
CREATE TABLE quantum.saga_executions (
    tenant_id    text COLLATE "C" NOT NULL,
    execution_id text COLLATE "C" NOT NULL,
    checked_at   timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_id, execution_id)
) WITH (fillfactor = 80);
CREATE INDEX saga_executions_by_check ON quantum.saga_executions (checked_at);
ALTER TABLE quantum.saga_executions ENABLE ROW LEVEL SECURITY;
ALTER TABLE quantum.saga_executions FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant_rows ON quantum.saga_executions FOR SELECT TO quantum_app
    USING (tenant_id = (SELECT quantum.current_tenant()));
CREATE POLICY platform_rows ON quantum.saga_executions TO quantum_platform USING (true) WITH CHECK (true);
GRANT SELECT, INSERT, UPDATE, DELETE ON quantum.saga_executions TO quantum_platform;

-- Gives ranks to rows that are due, and frees what dead workers held (it goes first: it has waited already).
CREATE FUNCTION quantum.saga_wake(at_most integer, present timestamptz) RETURNS void
    LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    now_virtual double precision := (SELECT rank FROM quantum.saga_virtual_time);
BEGIN
    UPDATE quantum.saga_dispatches AS held SET lease_owner = NULL, rank = now_virtual
     WHERE held.lease_owner IS NOT NULL
       AND NOT EXISTS (SELECT FROM quantum.saga_workers AS w WHERE w.worker = held.lease_owner AND w.alive_until > now());
    IF NOT EXISTS (SELECT FROM quantum.saga_dispatches AS one
                    WHERE one.rank IS NULL AND one.lease_owner IS NULL AND one.due_at <= present) THEN
        RETURN;
    END IF;
    WITH due AS MATERIALIZED (
        SELECT one.tenant_id, one.execution_id, one.step, one.attempt, one.due_at
          FROM quantum.saga_dispatches AS one
         WHERE one.rank IS NULL AND one.lease_owner IS NULL AND one.due_at <= present
         ORDER BY one.due_at LIMIT at_most FOR UPDATE SKIP LOCKED
    ), numbered AS (
        SELECT due.*, row_number() OVER (PARTITION BY due.tenant_id ORDER BY due.due_at) AS number FROM due
    ), tenants AS (
        INSERT INTO quantum.saga_tenants AS known (tenant_id, last_rank)
        SELECT numbered.tenant_id, now_virtual + max(numbered.number) FROM numbered GROUP BY numbered.tenant_id
            ON CONFLICT (tenant_id) DO UPDATE
           SET last_rank = greatest(known.last_rank, now_virtual) + (excluded.last_rank - now_virtual) / known.weight
        RETURNING known.tenant_id, known.last_rank, known.weight
    ), counts AS (
        SELECT numbered.tenant_id, max(numbered.number) AS count FROM numbered GROUP BY numbered.tenant_id
    )
    UPDATE quantum.saga_dispatches AS one
       SET rank = tenants.last_rank - (counts.count - numbered.number) / tenants.weight
      FROM numbered JOIN tenants USING (tenant_id) JOIN counts USING (tenant_id)
     WHERE one.tenant_id = numbered.tenant_id AND one.execution_id = numbered.execution_id
       AND one.step = numbered.step AND one.attempt = numbered.attempt;
END
$$;

-- Leases up to `at_most` rows to a worker: by priority, then rank; of each tenant no more than it has room for; of each slot key
-- no more than may run at once, what a module has taken on to answer later included. Rows for which there is no room are passed
-- over, so that they keep nothing else waiting. One claimer at a time, so that the counts hold. `present` is the time; null is the
-- database's own.
CREATE FUNCTION quantum.saga_claim(
    claimer text, at_most integer, tenant_room integer, busy_tenants text[], busy_room integer[], present timestamptz
)
    RETURNS SETOF quantum.saga_dispatches
    LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp SET plan_cache_mode = force_custom_plan
AS $$
BEGIN
    PERFORM pg_advisory_xact_lock(20830, 0);
    PERFORM quantum.saga_wake(10000, coalesce(present, now()));
    RETURN QUERY
    WITH slots AS MATERIALIZED (
        SELECT held.tenant_id, held.slot_key, count(*) AS taken FROM quantum.saga_dispatches AS held
         WHERE held.slot_key IS NOT NULL AND (held.lease_owner IS NOT NULL OR held.kind <> 'call')
           AND (held.kind <> 'pull' OR held.lease_until IS NOT NULL) -- 0017: what is offered to workers holds nothing yet
         GROUP BY held.tenant_id, held.slot_key
    ), head AS MATERIALIZED (
        SELECT one.tenant_id, one.execution_id, one.step, one.attempt, one.priority, one.rank,
               CASE WHEN one.kind = 'call' THEN one.slot_key END AS slot_key, one.slot_max, coalesce(slots.taken, 0) AS slots_taken,
               one.kind <> 'child' AND EXISTS (
                   SELECT FROM quantum.events AS e
                    WHERE e.tenant_id = one.tenant_id AND e.command_id = one.command_id AND e.command_index = 0) AS recorded
          FROM quantum.saga_dispatches AS one
          LEFT JOIN slots ON one.kind = 'call' AND slots.tenant_id = one.tenant_id AND slots.slot_key = one.slot_key
         WHERE one.rank IS NOT NULL AND one.lease_owner IS NULL AND (slots.taken IS NULL OR slots.taken < one.slot_max)
           AND coalesce(busy_room[array_position(busy_tenants, one.tenant_id)], tenant_room) > 0
         ORDER BY one.priority, one.rank LIMIT at_most * 4 + 64 FOR UPDATE OF one SKIP LOCKED
    ), over AS (
        DELETE FROM quantum.saga_dispatches AS gone USING head
         WHERE head.recorded AND gone.tenant_id = head.tenant_id AND gone.execution_id = head.execution_id
           AND gone.step = head.step AND gone.attempt = head.attempt
    ), slotted AS (
        SELECT head.*,
               row_number() OVER (PARTITION BY head.tenant_id, head.slot_key ORDER BY head.priority, head.rank) AS of_slot
          FROM head WHERE NOT head.recorded
    ), numbered AS (
        SELECT slotted.*, row_number() OVER (PARTITION BY slotted.tenant_id ORDER BY slotted.priority, slotted.rank) AS of_tenant
          FROM slotted WHERE slotted.slot_key IS NULL OR slotted.of_slot + slotted.slots_taken <= slotted.slot_max
    ), chosen AS (
        SELECT numbered.* FROM numbered
         WHERE numbered.of_tenant <= coalesce(busy_room[array_position(busy_tenants, numbered.tenant_id)], tenant_room)
         ORDER BY numbered.priority, numbered.rank LIMIT at_most
    ), taken AS (
        UPDATE quantum.saga_dispatches AS one SET lease_owner = claimer, claims = one.claims + 1, rank = NULL
          FROM chosen
         WHERE one.tenant_id = chosen.tenant_id AND one.execution_id = chosen.execution_id
           AND one.step = chosen.step AND one.attempt = chosen.attempt
        RETURNING one.*
    ), moved AS (
        UPDATE quantum.saga_virtual_time AS clock SET rank = reached.rank
          FROM (SELECT max(chosen.rank) AS rank FROM chosen) AS reached WHERE reached.rank > clock.rank
    )
    SELECT taken.* FROM taken;
END
$$;
REVOKE ALL ON FUNCTION quantum.saga_wake, quantum.saga_claim FROM PUBLIC;
GRANT EXECUTE ON FUNCTION quantum.saga_wake, quantum.saga_claim TO quantum_platform;

-- A saga finds the intent behind a workflow's name by the claim on it.
CREATE POLICY platform_rows ON quantum.claims FOR SELECT TO quantum_platform USING (true);
GRANT SELECT ON quantum.claims TO quantum_platform;
