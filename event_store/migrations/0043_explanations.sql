-- intent_ref: read-api.explanations
-- What an execution waits for, for whoever asks why a step has not run yet: the rows of quantum.saga_dispatches about it
-- (migration 0016 says what they mean), under the tenant's own row-level security.
--
-- `ahead` is how many rows of the same tenant come before one that is due, counted up to 10,000; nothing is told of the work of
-- others. `slots_taken` counts the tenant's calls under way with the same slot key.
GRANT SELECT ON quantum.saga_dispatches TO quantum_app;

CREATE FUNCTION quantum.explain_execution(tenant text, execution text, at_most integer)
    RETURNS TABLE (
        step text, attempt integer, kind text, due_at timestamptz, is_leased boolean, is_queued boolean, claims integer,
        priority smallint, ahead bigint, slot_key text, slot_max integer, slots_taken bigint, queue_by timestamptz
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
                     WHERE other.tenant_id = tenant AND other.slot_key = mine.slot_key AND other.lease_owner IS NOT NULL)
               END, mine.queue_by
          FROM mine
          LEFT JOIN waiting ON waiting.execution_id = mine.execution_id AND waiting.step = mine.step
                           AND waiting.attempt = mine.attempt;
END
$$;
REVOKE ALL ON FUNCTION quantum.explain_execution FROM PUBLIC;
GRANT EXECUTE ON FUNCTION quantum.explain_execution TO quantum_app, quantum_platform;
