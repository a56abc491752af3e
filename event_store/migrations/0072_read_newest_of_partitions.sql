-- intent_ref: event-store.tail
-- As migration 0056, also for a reader of some partitions: it asked for the horizon and for the events one after the other.
DROP FUNCTION quantum.read_newest;
CREATE FUNCTION quantum.read_newest(
    after bigint, gap_max bigint, topics text[], at_most integer,
    partitions integer DEFAULT 1, wanted integer[] DEFAULT NULL -- into how many the streams fall, and the numbers of those to read
)
    RETURNS TABLE (
        "position" bigint, recorded_at timestamptz, event_id uuid, command_id uuid, version integer, tenant_id text, stream_id text,
        topic text, metadata json, payload bytea, horizon bigint
    )
    LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp SET plan_cache_mode = force_generic_plan SET enable_seqscan = off SET enable_bitmapscan = off
AS $$
#variable_conflict use_column
DECLARE
    complete CONSTANT bigint := quantum.log_horizon();
BEGIN
    IF current_setting('transaction_isolation') <> 'read committed' THEN
        RAISE EXCEPTION 'the log cannot be read with transaction isolation %', current_setting('transaction_isolation')
            USING ERRCODE = 'feature_not_supported',
                  HINT = 'Let default_transaction_isolation of the role quantum_platform be read committed: both queries would see'
                         ' what was committed before the horizon was known, and events could be missed.';
    END IF;
    IF complete > after AND complete <= after + gap_max THEN
        RETURN QUERY
            SELECT e.position, e.recorded_at, e.event_id, e.command_id, e.version, e.tenant_id, e.stream_id, e.topic, e.metadata,
                   e.payload, complete
              FROM quantum.events AS e
             WHERE e.position > after AND e.position <= complete AND (topics IS NULL OR e.topic = ANY (topics))
               AND (wanted IS NULL
                    OR crc32(convert_to(e.tenant_id || '/' || e.stream_id, 'UTF8')) % partitions = ANY (wanted::bigint[]))
             ORDER BY e.position LIMIT at_most;
        IF FOUND THEN
            RETURN;
        END IF;
    END IF;
    horizon := complete;
    RETURN NEXT;
END
$$;
REVOKE ALL ON FUNCTION quantum.read_newest FROM PUBLIC;
GRANT EXECUTE ON FUNCTION quantum.read_newest TO quantum_platform;
