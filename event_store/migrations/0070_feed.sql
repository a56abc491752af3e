-- intent_ref: event-store.read
-- One stream of a tenant behind a position of the log, as the tenant's feed reads it when it is about one subject.
-- The stream's own index finds it: streams are short beside the log.
CREATE FUNCTION quantum.read_tenant_stream(
    tenant text, stream text, after bigint, up_to bigint, topics text[], at_most integer
) RETURNS SETOF quantum.events
    LANGUAGE plpgsql VOLATILE
AS $$
BEGIN
    PERFORM set_config('app.tenant_id', tenant, true);
    RETURN QUERY SELECT * FROM quantum.events AS e
        WHERE e.tenant_id = tenant AND e.stream_id = stream AND e.position > after AND e.position <= up_to
          AND (topics IS NULL OR e.topic = ANY (topics))
        ORDER BY e.version LIMIT at_most;
END
$$;

-- How far a reader gets who looks at `at_most` of the tenant's events after a position: so that a filter that lets nothing
-- through never makes one query read a whole log.
CREATE FUNCTION quantum.tenant_log_window(tenant text, after bigint, up_to bigint, at_most integer) RETURNS bigint
    LANGUAGE plpgsql VOLATILE
AS $$
BEGIN
    PERFORM set_config('app.tenant_id', tenant, true);
    RETURN coalesce((SELECT e.position FROM quantum.events AS e
                      WHERE e.tenant_id = tenant AND e.position > after AND e.position <= up_to
                      ORDER BY e.position OFFSET at_most - 1 LIMIT 1), up_to);
END
$$;

-- The position before the tenant's first event recorded at `moment` or later, by binary search over positions: at most 48
-- lookups in an index, however long the log is. Times of recording grow with positions but for what transactions overlap
-- (the time is that of a transaction's start); callers look a few seconds further back, and at each event's own time.
CREATE FUNCTION quantum.tenant_position_before(tenant text, moment timestamptz, up_to bigint) RETURNS bigint
    LANGUAGE plpgsql VOLATILE
AS $$
DECLARE
    low bigint := 0;            -- what is at or below it was recorded before the moment
    high bigint := up_to;       -- what is above it was not
    middle bigint;
    following record;
BEGIN
    PERFORM set_config('app.tenant_id', tenant, true);
    WHILE low < high LOOP
        middle := (low + high) / 2;
        SELECT e.position, e.recorded_at INTO following FROM quantum.events AS e
         WHERE e.tenant_id = tenant AND e.position > middle AND e.position <= high ORDER BY e.position LIMIT 1;
        IF FOUND AND following.recorded_at < moment THEN
            low := following.position;
        ELSE
            high := middle;
        END IF;
    END LOOP;
    RETURN low;
END
$$;
REVOKE ALL ON FUNCTION quantum.read_tenant_stream, quantum.tenant_log_window, quantum.tenant_position_before FROM PUBLIC;
GRANT EXECUTE ON FUNCTION quantum.read_tenant_stream, quantum.tenant_log_window, quantum.tenant_position_before TO quantum_app;
