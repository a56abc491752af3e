-- intent_ref: access.descent-limits
-- What an execution and those that it has started have started, counted by numbering them: a row for each, written before it starts.
--
-- Whoever starts an execution again after a crash finds its row, so nothing is counted twice; what is refused for another reason
-- afterwards stays counted. Only starts behind the same root wait for each other, for as long as one row takes to be written.
CREATE TABLE quantum.saga_descendants (
    tenant_id    text COLLATE "C" NOT NULL,
    root_id      text COLLATE "C" NOT NULL,
    execution_id text COLLATE "C" NOT NULL,
    number       integer NOT NULL,
    counted_at   timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_id, root_id, execution_id),
    UNIQUE (tenant_id, root_id, number)
);
CREATE INDEX saga_descendants_by_age ON quantum.saga_descendants (counted_at);
ALTER TABLE quantum.saga_descendants ENABLE ROW LEVEL SECURITY;
ALTER TABLE quantum.saga_descendants FORCE ROW LEVEL SECURITY;
CREATE POLICY platform_rows ON quantum.saga_descendants TO quantum_platform USING (true) WITH CHECK (true);
GRANT SELECT, INSERT, DELETE ON quantum.saga_descendants TO quantum_platform;

-- Whether one more execution may start behind this root, which then is counted; always for one that is counted already.
CREATE FUNCTION quantum.saga_descend(of_tenant text, root text, descendant text, at_most integer) RETURNS boolean
    LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp SET plan_cache_mode = force_generic_plan
AS $$
DECLARE
    counted integer;
BEGIN
    IF EXISTS (SELECT FROM quantum.saga_descendants AS one
                WHERE one.tenant_id = of_tenant AND one.root_id = root AND one.execution_id = descendant) THEN
        RETURN true;
    END IF;
    PERFORM pg_advisory_xact_lock(20833, hashtext(of_tenant || '/' || root));
    SELECT coalesce(max(one.number), 0) INTO counted FROM quantum.saga_descendants AS one
     WHERE one.tenant_id = of_tenant AND one.root_id = root;
    IF counted < at_most THEN
        INSERT INTO quantum.saga_descendants (tenant_id, root_id, execution_id, number)
        VALUES (of_tenant, root, descendant, counted + 1) ON CONFLICT (tenant_id, root_id, execution_id) DO NOTHING;
        RETURN true;
    END IF;
    -- Another process may have counted it while this one waited.
    RETURN EXISTS (SELECT FROM quantum.saga_descendants AS one
                    WHERE one.tenant_id = of_tenant AND one.root_id = root AND one.execution_id = descendant);
END
$$;
REVOKE ALL ON FUNCTION quantum.saga_descend FROM PUBLIC;
GRANT EXECUTE ON FUNCTION quantum.saga_descend TO quantum_platform;
