-- intent_ref: streaming.webhooks
-- A subscription's deliveries, newest first, under row-level security in one round trip.
CREATE FUNCTION quantum.list_webhook_deliveries(
    tenant text, subscription text, in_status text, of_type text, of_subject text, of_event uuid,
    after_time timestamptz, before_time timestamptz, before bigint, at_most integer
) RETURNS TABLE (
    number bigint, delivery_id uuid, event_id uuid, event_type text, subject text, status text, first_at timestamptz,
    last_at timestamptz, next_at timestamptz, attempts json
)
    LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp SET plan_cache_mode = force_custom_plan
AS $$
#variable_conflict use_column
BEGIN
    PERFORM set_config('app.tenant_id', tenant, true);
    RETURN QUERY
        SELECT d.number, d.delivery_id, d.event_id, d.event_type, d.subject, d.status, d.first_at, d.last_at, d.next_at, d.attempts
          FROM quantum.webhook_deliveries AS d
         WHERE d.tenant_id = tenant AND d.subscription_id = subscription AND d.number < before
           AND (in_status IS NULL OR d.status = in_status)
           AND (of_type IS NULL OR d.event_type = of_type)
           AND (of_subject IS NULL OR d.subject = of_subject)
           AND (of_event IS NULL OR d.event_id = of_event)
           AND (after_time IS NULL OR d.last_at > after_time)
           AND (before_time IS NULL OR d.last_at < before_time)
         ORDER BY d.number DESC LIMIT at_most;
END
$$;

-- Puts a request down for the deliverer; false where there is no such delivery, or too much has been asked for already.
CREATE FUNCTION quantum.request_webhook(
    tenant text, subscription text, in_kind text, delivery uuid, after_position bigint, from_time timestamptz, at_most integer
) RETURNS text
    LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM set_config('app.tenant_id', tenant, true);
    IF in_kind = 'redeliver' AND NOT EXISTS (
        SELECT FROM quantum.webhook_deliveries AS d
         WHERE d.tenant_id = tenant AND d.subscription_id = subscription AND d.delivery_id = delivery
    ) THEN
        RETURN 'unknown';
    END IF;
    IF (SELECT count(*) FROM quantum.webhook_requests AS r
         WHERE r.tenant_id = tenant AND r.subscription_id = subscription) >= at_most THEN
        RETURN 'busy';
    END IF;
    INSERT INTO quantum.webhook_requests (tenant_id, subscription_id, kind, delivery_id, position, since)
    VALUES (tenant, subscription, in_kind, delivery, after_position, from_time);
    RETURN 'accepted';
END
$$;
REVOKE ALL ON FUNCTION quantum.list_webhook_deliveries, quantum.request_webhook FROM PUBLIC;
GRANT EXECUTE ON FUNCTION quantum.list_webhook_deliveries, quantum.request_webhook TO quantum_app, quantum_platform;

-- What a subscription that is behind reads: its tenant's events in a stretch of the log, under row-level security.
CREATE FUNCTION quantum.read_webhook_history(tenant text, after bigint, up_to bigint, type_pattern text, at_most integer)
    RETURNS SETOF quantum.events
    LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM set_config('app.tenant_id', tenant, true);
    RETURN QUERY SELECT * FROM quantum.events AS e
        WHERE e.tenant_id = tenant AND e.position > after AND e.position <= up_to
          AND (type_pattern IS NULL OR ('quantum.' || e.topic) ~ type_pattern)
        ORDER BY e.position LIMIT at_most;
END
$$;
REVOKE ALL ON FUNCTION quantum.read_webhook_history FROM PUBLIC;
GRANT EXECUTE ON FUNCTION quantum.read_webhook_history TO quantum_app, quantum_platform;

-- The last twenty attempts of those a delivery had and those that are added.
CREATE FUNCTION quantum.webhook_attempts(had json, added json) RETURNS json
    LANGUAGE sql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp
AS $$
    SELECT coalesce(json_agg(one.attempt ORDER BY one.place), '[]')
      FROM (SELECT attempt, place
              FROM (SELECT attempt, number AS place FROM json_array_elements(had) WITH ORDINALITY AS a (attempt, number)
                    UNION ALL
                    SELECT attempt, 1000 + number FROM json_array_elements(added) WITH ORDINALITY AS a (attempt, number)) AS every
             ORDER BY place DESC LIMIT 20) AS one
$$;
REVOKE ALL ON FUNCTION quantum.webhook_attempts FROM PUBLIC;
GRANT EXECUTE ON FUNCTION quantum.webhook_attempts TO quantum_platform;

-- The position before the first event recorded at or after `wanted`; the last one where there is none. A search by halves, since
-- positions grow with time but for appends that were under way together, for which a minute is left and looked through.
CREATE FUNCTION quantum.position_before_time(wanted timestamptz) RETURNS bigint
    LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    last CONSTANT bigint := coalesce((SELECT max(e.position) FROM quantum.events AS e), 0);
    low bigint := 0;
    high bigint := last + 1;
    middle bigint;
    found timestamptz;
BEGIN
    WHILE high - low > 1 LOOP
        middle := (low + high) / 2;
        SELECT e.recorded_at INTO found FROM quantum.events AS e WHERE e.position >= middle ORDER BY e.position LIMIT 1;
        IF found < wanted - interval '1 minute' THEN
            low := middle;
        ELSE
            high := middle;
        END IF;
    END LOOP;
    RETURN coalesce((SELECT e.position - 1 FROM quantum.events AS e
                      WHERE e.position > low AND e.recorded_at >= wanted ORDER BY e.position LIMIT 1), last);
END
$$;
REVOKE ALL ON FUNCTION quantum.position_before_time FROM PUBLIC;
GRANT EXECUTE ON FUNCTION quantum.position_before_time TO quantum_platform;
