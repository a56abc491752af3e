-- intent_ref: projections.checkpoints
-- How far each projection has come, and the events it set aside (docs/adr/0006).
--
-- The tables of a read model exist twice, made from the same text: in quantum_read, which serves, and in quantum_rebuild, which a
-- rebuild fills. To switch is to exchange their schemas, so indexes, policies and grants are the same before and after.
-- quantum_swap is empty outside of that moment. The projector owns none of this; the two functions below are all it may do.
RESET ROLE;
DO $$
BEGIN
    PERFORM pg_advisory_xact_lock(20820, 1);
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'quantum_search') THEN
        CREATE ROLE quantum_search NOLOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOBYPASSRLS NOINHERIT;
    END IF;
    GRANT quantum_search TO quantum_owner WITH INHERIT TRUE, SET TRUE;
END
$$;
CREATE SCHEMA quantum_read;
CREATE SCHEMA quantum_rebuild;
CREATE SCHEMA quantum_swap;
ALTER SCHEMA quantum_read OWNER TO quantum_owner;
ALTER SCHEMA quantum_rebuild OWNER TO quantum_owner;
ALTER SCHEMA quantum_swap OWNER TO quantum_owner;
SET LOCAL ROLE quantum_owner;

GRANT USAGE ON SCHEMA quantum TO quantum_search;
GRANT USAGE ON SCHEMA quantum_read TO quantum_app, quantum_platform, quantum_search;
GRANT USAGE ON SCHEMA quantum_rebuild TO quantum_platform;

-- `generation` grows whenever somebody other than the active runner changes what the runner knows (a switch, a retry): the runner
-- moves the checkpoint by comparing position and generation, so it can never apply on top of what it has not seen.
CREATE TABLE quantum.projections (
    name             text COLLATE "C" PRIMARY KEY,
    tables           text[] NOT NULL,
    shape            text NOT NULL,
    rebuild_shape    text NOT NULL,
    generation       bigint NOT NULL DEFAULT 0,
    position         bigint NOT NULL DEFAULT 0,
    rebuild_position bigint
) WITH (fillfactor = 50);
GRANT SELECT ON quantum.projections TO quantum_app;
GRANT SELECT, UPDATE (generation, position, rebuild_position) ON quantum.projections TO quantum_platform;

CREATE TABLE quantum.projection_faults (
    projection text COLLATE "C" NOT NULL,
    in_rebuild boolean NOT NULL,
    position   bigint NOT NULL,
    tenant_id  text COLLATE "C" NOT NULL,
    stream_id  text COLLATE "C" NOT NULL,
    event_id   uuid NOT NULL,
    topic      text COLLATE "C" NOT NULL,
    error      text,                          -- NULL: nothing is wrong with it, it waits behind an earlier one of its stream
    attempts   integer NOT NULL,
    failed_at  timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (projection, in_rebuild, position)
);
ALTER TABLE quantum.projection_faults ENABLE ROW LEVEL SECURITY;
ALTER TABLE quantum.projection_faults FORCE ROW LEVEL SECURITY;
CREATE POLICY platform_rows ON quantum.projection_faults TO quantum_platform USING (true) WITH CHECK (true);
GRANT SELECT, INSERT, UPDATE, DELETE ON quantum.projection_faults TO quantum_platform;

-- Empties the tables a rebuild fills, and says whether they have the shape that is wanted.
CREATE FUNCTION quantum.begin_projection_rebuild(projection text, wanted_shape text) RETURNS boolean
    LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    known quantum.projections;
    table_name text;
BEGIN
    SELECT * INTO STRICT known FROM quantum.projections WHERE name = projection FOR UPDATE;
    IF known.rebuild_shape <> wanted_shape THEN
        RETURN false;
    END IF;
    FOREACH table_name IN ARRAY known.tables LOOP
        EXECUTE format('TRUNCATE quantum_rebuild.%I', table_name);
    END LOOP;
    UPDATE quantum.projections SET rebuild_position = 0 WHERE name = projection;
    RETURN true;
END
$$;

-- Statistics for the planner, so that the first queries after a switch are planned as well as the last before it.
CREATE FUNCTION quantum.analyze_projection_rebuild(projection text) RETURNS void
    LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    table_name text;
BEGIN
    FOR table_name IN SELECT unnest(tables) FROM quantum.projections WHERE name = projection LOOP
        EXECUTE format('ANALYZE quantum_rebuild.%I', table_name);
    END LOOP;
END
$$;

-- Exchanges the serving tables and the rebuilt ones, and leaves the former ones empty. The caller has set a short lock_timeout:
-- readers queue behind the exchange, so it is given up and tried again rather than waited for.
CREATE FUNCTION quantum.switch_projection(projection text) RETURNS void
    LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    known quantum.projections;
    table_name text;
BEGIN
    SELECT * INTO STRICT known FROM quantum.projections WHERE name = projection FOR UPDATE;
    IF known.rebuild_position IS NULL OR known.rebuild_position < known.position THEN
        RAISE EXCEPTION 'the rebuild of % has come to % only, and what serves to %',
            projection, known.rebuild_position, known.position;
    END IF;
    FOREACH table_name IN ARRAY known.tables LOOP
        IF to_regclass(format('quantum_read.%I', table_name)) IS NOT NULL THEN
            EXECUTE format('ALTER TABLE quantum_read.%I SET SCHEMA quantum_swap', table_name);
        END IF;
        EXECUTE format('ALTER TABLE quantum_rebuild.%I SET SCHEMA quantum_read', table_name);
        IF to_regclass(format('quantum_swap.%I', table_name)) IS NOT NULL THEN
            EXECUTE format('ALTER TABLE quantum_swap.%I SET SCHEMA quantum_rebuild', table_name);
            EXECUTE format('TRUNCATE quantum_rebuild.%I', table_name);
        END IF;
    END LOOP;
    UPDATE quantum.projections
       SET position = known.rebuild_position, rebuild_position = NULL, generation = known.generation + 1,
           shape = known.rebuild_shape, rebuild_shape = known.shape
     WHERE name = projection;
END
$$;

REVOKE ALL ON FUNCTION quantum.begin_projection_rebuild, quantum.analyze_projection_rebuild, quantum.switch_projection FROM PUBLIC;
GRANT EXECUTE ON FUNCTION quantum.begin_projection_rebuild, quantum.analyze_projection_rebuild, quantum.switch_projection
    TO quantum_platform;
