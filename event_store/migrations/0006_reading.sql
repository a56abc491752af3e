-- intent_ref: event-store.read
-- The position up to which the log is complete: every event at or below it has been committed, or never will be.
-- The order of the reads matters: whoever was given a position up to `last` took its lock before that position was given
-- out, so at the second read it either still holds the lock or has ended, and the third read's snapshot sees its events.
-- The answer is the position of an event, never that of a transaction which was rolled back: after a crash the sequence may
-- give out again what nobody committed, and a reader that had gone past it would miss the event that gets it then.
CREATE FUNCTION quantum.log_horizon() RETURNS bigint
    LANGUAGE plpgsql VOLATILE
AS $$
DECLARE
    last CONSTANT bigint := pg_sequence_last_value('quantum.event_position');
    writing_from bigint;
BEGIN
    SELECT min((classid::bigint << 32 | objid::bigint) & ((1::bigint << 48) - 1)) INTO writing_from
      FROM pg_catalog.pg_locks
     WHERE locktype = 'advisory' AND objsubid = 1 AND classid::bigint >> 16 = 20821
       AND database = (SELECT oid FROM pg_catalog.pg_database WHERE datname = current_database());
    RETURN coalesce((SELECT event.position FROM quantum.events AS event
                      WHERE event.position <= least(last, writing_from) ORDER BY event.position DESC LIMIT 1), 0);
END
$$;
REVOKE ALL ON FUNCTION quantum.log_horizon FROM PUBLIC;
GRANT EXECUTE ON FUNCTION quantum.log_horizon TO quantum_platform;

-- One stream of one tenant under row-level security, in one round trip.
CREATE FUNCTION quantum.read_stream(
    tenant text, stream text, after_version integer, up_to_version integer, up_to_time timestamptz,
    backward boolean, at_most integer
) RETURNS SETOF quantum.events
    LANGUAGE plpgsql VOLATILE
AS $$
BEGIN
    PERFORM set_config('app.tenant_id', tenant, true);
    IF backward THEN
        RETURN QUERY SELECT * FROM quantum.events AS e
            WHERE e.tenant_id = tenant AND e.stream_id = stream AND e.version > after_version AND e.version <= up_to_version
              AND (up_to_time IS NULL OR e.recorded_at <= up_to_time)
            ORDER BY e.version DESC LIMIT at_most;
    ELSE
        RETURN QUERY SELECT * FROM quantum.events AS e
            WHERE e.tenant_id = tenant AND e.stream_id = stream AND e.version > after_version AND e.version <= up_to_version
              AND (up_to_time IS NULL OR e.recorded_at <= up_to_time)
            ORDER BY e.version LIMIT at_most;
    END IF;
END
$$;

-- The events of one command, in its order.
CREATE FUNCTION quantum.read_command(tenant text, command uuid) RETURNS SETOF quantum.events
    LANGUAGE plpgsql VOLATILE
AS $$
BEGIN
    PERFORM set_config('app.tenant_id', tenant, true);
    RETURN QUERY SELECT * FROM quantum.events AS e
        WHERE e.tenant_id = tenant AND e.command_id = command ORDER BY e.command_index;
END
$$;
GRANT EXECUTE ON FUNCTION quantum.read_stream, quantum.read_command TO quantum_app, quantum_platform;

-- A tenant's part of the log under row-level security, in one round trip. `up_to` is a horizon read before.
CREATE FUNCTION quantum.read_tenant_log(tenant text, after bigint, up_to bigint, topics text[], at_most integer)
    RETURNS SETOF quantum.events
    LANGUAGE plpgsql VOLATILE
AS $$
BEGIN
    PERFORM set_config('app.tenant_id', tenant, true);
    RETURN QUERY SELECT * FROM quantum.events AS e
        WHERE e.tenant_id = tenant AND e.position > after AND e.position <= up_to
          AND (topics IS NULL OR e.topic = ANY (topics))
        ORDER BY e.position LIMIT at_most;
END
$$;
GRANT EXECUTE ON FUNCTION quantum.read_tenant_log TO quantum_app, quantum_platform;
