-- intent_ref: streaming.pull-subscriptions
-- What readers of a pull subscription say about the events they were given, and what is shown of it. Migration 0044 has the tables.

-- The events of these ids, and all that are given out up to a position, are done; which of them were not done before.
CREATE FUNCTION quantum.acknowledge_pulled(tenant text, subscription text, ids uuid[], up_to bigint) RETURNS SETOF uuid
    LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    held quantum.pull_leases;
BEGIN
    PERFORM set_config('app.tenant_id', tenant, true);
    PERFORM FROM quantum.pull_cursors AS c WHERE c.tenant_id = tenant AND c.subscription_id = subscription FOR UPDATE;
    FOR held IN SELECT * FROM quantum.pull_leases AS l
                 WHERE l.tenant_id = tenant AND l.subscription_id = subscription
                   AND (l.event_id = ANY (ids) OR (l.is_leased AND l.position <= up_to)) LOOP
        PERFORM quantum.settle_pulled(held);
        RETURN NEXT held.event_id;
    END LOOP;
END
$$;

-- Gives an event back, to be given out again after a while; `delivery` says which lease is meant, null whichever there is.
-- `again`, `dead` where it has been given out as often as it may be, `lost` where the lease is another's, or `unknown`.
CREATE FUNCTION quantum.refuse_pulled(
    tenant text, subscription text, id uuid, delivery integer, delay_seconds double precision, why text, deliveries_max integer,
    dead_letters_max integer
) RETURNS text
    LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    held quantum.pull_leases;
BEGIN
    PERFORM set_config('app.tenant_id', tenant, true);
    PERFORM FROM quantum.pull_cursors AS c WHERE c.tenant_id = tenant AND c.subscription_id = subscription FOR UPDATE;
    SELECT * INTO held FROM quantum.pull_leases AS l
     WHERE l.tenant_id = tenant AND l.subscription_id = subscription AND l.event_id = id;
    IF NOT FOUND THEN
        RETURN 'unknown';
    ELSIF NOT held.is_leased OR delivery <> held.deliveries THEN
        RETURN 'lost';
    ELSIF held.deliveries >= deliveries_max
          AND quantum.give_up_pulled(held, coalesce(why, 'It was given back.'), dead_letters_max) THEN
        RETURN 'dead';
    END IF;
    UPDATE quantum.pull_leases AS l
       SET is_leased = false, due_at = clock_timestamp() + make_interval(secs => delay_seconds), reason = why
     WHERE l.tenant_id = tenant AND l.subscription_id = subscription AND l.position = held.position;
    RETURN 'again';
END
$$;

-- Leases last `lease_seconds` from now on; which ones, and until when. `deliveries` go with `ids`, null where any lease is meant.
CREATE FUNCTION quantum.extend_pulled(
    tenant text, subscription text, ids uuid[], deliveries integer[], lease_seconds double precision
) RETURNS TABLE (event_id uuid, leased_until timestamptz)
    LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
BEGIN
    PERFORM set_config('app.tenant_id', tenant, true);
    PERFORM FROM quantum.pull_cursors AS c WHERE c.tenant_id = tenant AND c.subscription_id = subscription FOR UPDATE;
    RETURN QUERY
        UPDATE quantum.pull_leases AS l SET due_at = clock_timestamp() + make_interval(secs => lease_seconds)
          FROM (SELECT DISTINCT ON (said.id) said.id, said.delivery
                  FROM unnest(ids, deliveries) AS said (id, delivery) ORDER BY said.id, said.delivery) AS wanted
         WHERE l.tenant_id = tenant AND l.subscription_id = subscription AND l.event_id = wanted.id AND l.is_leased
           AND (wanted.delivery IS NULL OR l.deliveries = wanted.delivery)
        RETURNING l.event_id, l.due_at;
END
$$;

-- How a subscription stands. `due_seconds`: until something is to be given out again, null where nothing is.
CREATE FUNCTION quantum.pull_state(tenant text, subscription text)
    RETURNS TABLE (
        cursor bigint, leased bigint, waiting bigint, dead_letters bigint, redriven bigint, due_seconds double precision
    )
    LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
BEGIN
    PERFORM set_config('app.tenant_id', tenant, true);
    RETURN QUERY
        SELECT (SELECT c.cursor FROM quantum.pull_cursors AS c WHERE c.tenant_id = tenant AND c.subscription_id = subscription),
               l.leased, l.waiting, d.dead, d.redriven, extract(epoch FROM l.due_at - clock_timestamp())::double precision
          FROM (SELECT count(*) FILTER (WHERE l.is_leased AND l.due_at > clock_timestamp()) AS leased,
                       count(*) FILTER (WHERE NOT l.is_leased OR l.due_at <= clock_timestamp()) AS waiting, min(l.due_at) AS due_at
                  FROM quantum.pull_leases AS l WHERE l.tenant_id = tenant AND l.subscription_id = subscription) AS l,
               (SELECT count(*) AS dead, count(*) FILTER (WHERE d.is_redriven) AS redriven
                  FROM quantum.pull_dead_letters AS d WHERE d.tenant_id = tenant AND d.subscription_id = subscription) AS d;
END
$$;

-- Dead letters behind a position, oldest first.
CREATE FUNCTION quantum.list_pull_dead_letters(tenant text, subscription text, after bigint, at_most integer)
    RETURNS SETOF quantum.pull_dead_letters
    LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM set_config('app.tenant_id', tenant, true);
    RETURN QUERY SELECT * FROM quantum.pull_dead_letters AS d
        WHERE d.tenant_id = tenant AND d.subscription_id = subscription AND d.position > after ORDER BY d.position LIMIT at_most;
END
$$;

-- Lets dead letters be given out again, or be forgotten; null: all of them. How many.
CREATE FUNCTION quantum.settle_pull_dead_letters(tenant text, subscription text, ids uuid[], is_forgotten boolean) RETURNS bigint
    LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    number bigint;
BEGIN
    PERFORM set_config('app.tenant_id', tenant, true);
    PERFORM FROM quantum.pull_cursors AS c WHERE c.tenant_id = tenant AND c.subscription_id = subscription FOR UPDATE;
    IF is_forgotten THEN
        DELETE FROM quantum.pull_dead_letters AS d
         WHERE d.tenant_id = tenant AND d.subscription_id = subscription AND (ids IS NULL OR d.event_id = ANY (ids));
    ELSE
        UPDATE quantum.pull_dead_letters AS d SET is_redriven = true
         WHERE d.tenant_id = tenant AND d.subscription_id = subscription AND (ids IS NULL OR d.event_id = ANY (ids));
    END IF;
    GET DIAGNOSTICS number = ROW_COUNT;
    RETURN number;
END
$$;

-- Goes on behind another position: what is given out counts as given back for good, dead letters stay.
CREATE FUNCTION quantum.seek_pull(tenant text, subscription text, after bigint, from_time timestamptz) RETURNS void
    LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM set_config('app.tenant_id', tenant, true);
    INSERT INTO quantum.pull_cursors AS c (tenant_id, subscription_id, cursor, since)
    VALUES (tenant, subscription, after, from_time)
        ON CONFLICT (tenant_id, subscription_id) DO UPDATE SET cursor = excluded.cursor, since = excluded.since;
    DELETE FROM quantum.pull_leases AS l WHERE l.tenant_id = tenant AND l.subscription_id = subscription;
END
$$;

-- Takes away what deleted subscriptions leave: of `subscription`, and of what is not among `known` any more. What is younger than
-- an hour and not known may have been made in this very moment.
CREATE FUNCTION quantum.forget_pull(tenant text, subscription text, known text[]) RETURNS void
    LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    gone text[];
BEGIN
    PERFORM set_config('app.tenant_id', tenant, true);
    SELECT array_agg(c.subscription_id) INTO gone FROM (
        SELECT c.subscription_id FROM quantum.pull_cursors AS c
         WHERE c.tenant_id = tenant
           AND (c.subscription_id = subscription
                OR (c.created_at < clock_timestamp() - interval '1 hour' AND NOT c.subscription_id = ANY (known)))
         ORDER BY c.subscription_id FOR UPDATE) AS c;
    DELETE FROM quantum.pull_leases AS l WHERE l.tenant_id = tenant AND l.subscription_id = ANY (gone);
    DELETE FROM quantum.pull_dead_letters AS d WHERE d.tenant_id = tenant AND d.subscription_id = ANY (gone);
    DELETE FROM quantum.pull_cursors AS c WHERE c.tenant_id = tenant AND c.subscription_id = ANY (gone);
END
$$;
REVOKE ALL ON FUNCTION quantum.acknowledge_pulled, quantum.refuse_pulled, quantum.extend_pulled, quantum.pull_state,
    quantum.list_pull_dead_letters, quantum.settle_pull_dead_letters, quantum.seek_pull, quantum.forget_pull FROM PUBLIC;
GRANT EXECUTE ON FUNCTION quantum.acknowledge_pulled, quantum.refuse_pulled, quantum.extend_pulled, quantum.pull_state,
    quantum.list_pull_dead_letters, quantum.settle_pull_dead_letters, quantum.seek_pull, quantum.forget_pull TO quantum_app;
