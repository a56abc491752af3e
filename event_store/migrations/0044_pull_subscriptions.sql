-- intent_ref: streaming.pull-subscriptions
-- How far each pull subscription has come (docs/pull-subscriptions.md). All of it follows from the log, but for what its readers say.
--
-- `cursor`: every wanted event up to there has been acknowledged, is a dead letter, has a row among the leases, or comes behind
-- such a row in its subject. Whoever changes anything about a subscription locks its row here first, so one at a time does.
CREATE TABLE quantum.pull_cursors (
    tenant_id       text COLLATE "C" NOT NULL,
    subscription_id text COLLATE "C" NOT NULL,
    cursor          bigint NOT NULL,
    since           timestamptz,                  -- events recorded before are not wanted
    created_at      timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_id, subscription_id)
) WITH (fillfactor = 70);

-- Events given out and not acknowledged. Where order per subject is kept there is one row a subject, however many events wait
-- behind it: they are read from the log again when their turn comes.
CREATE TABLE quantum.pull_leases (
    tenant_id       text COLLATE "C" NOT NULL,
    subscription_id text COLLATE "C" NOT NULL,
    position        bigint NOT NULL,
    event_id        uuid,                         -- null: the subject's next event, at `position` or behind, not given out yet
    stream_id       text COLLATE "C" NOT NULL,
    deliveries      integer NOT NULL DEFAULT 0,
    is_leased       boolean NOT NULL,             -- false: to be given out again, from `due_at` on
    due_at          timestamptz NOT NULL,         -- where it is leased, the end of that
    behind          bigint,                       -- the first event of the subject that the cursor has passed because of this one
    first_at        timestamptz NOT NULL,
    reason          text,                         -- why it was given back the last time
    PRIMARY KEY (tenant_id, subscription_id, position)
) WITH (fillfactor = 70);
CREATE INDEX pull_leases_of_stream ON quantum.pull_leases (tenant_id, subscription_id, stream_id);

CREATE TABLE quantum.pull_dead_letters (
    tenant_id       text COLLATE "C" NOT NULL,
    subscription_id text COLLATE "C" NOT NULL,
    position        bigint NOT NULL,
    event_id        uuid NOT NULL,
    stream_id       text COLLATE "C" NOT NULL,
    topic           text COLLATE "C" NOT NULL,
    deliveries      integer NOT NULL,
    reason          text NOT NULL,
    first_at        timestamptz NOT NULL,
    dead_at         timestamptz NOT NULL,
    is_redriven     boolean NOT NULL DEFAULT false, -- asked to be given out again, which happens as soon as its subject is free
    PRIMARY KEY (tenant_id, subscription_id, position)
);
CREATE INDEX pull_dead_letters_redriven ON quantum.pull_dead_letters (tenant_id, subscription_id, position) WHERE is_redriven;

DO $$
DECLARE
    name text;
BEGIN
    FOREACH name IN ARRAY ARRAY['pull_cursors', 'pull_leases', 'pull_dead_letters'] LOOP
        EXECUTE format('ALTER TABLE quantum.%I ENABLE ROW LEVEL SECURITY', name);
        EXECUTE format('ALTER TABLE quantum.%I FORCE ROW LEVEL SECURITY', name);
        EXECUTE format('CREATE POLICY tenant_rows ON quantum.%I TO quantum_app'
                       ' USING (tenant_id = (SELECT quantum.current_tenant()))'
                       ' WITH CHECK (tenant_id = (SELECT quantum.current_tenant()))', name);
        EXECUTE format('CREATE POLICY platform_rows ON quantum.%I TO quantum_platform USING (true) WITH CHECK (true)', name);
        EXECUTE format('GRANT SELECT, INSERT, UPDATE, DELETE ON quantum.%I TO quantum_app', name);
        EXECUTE format('GRANT SELECT ON quantum.%I TO quantum_platform', name);
    END LOOP;
END
$$;

-- A row among the leases is done with: gone, or the place of its subject's next event.
CREATE FUNCTION quantum.settle_pulled(held quantum.pull_leases) RETURNS void
    LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF held.behind IS NULL THEN
        DELETE FROM quantum.pull_leases AS l
         WHERE l.tenant_id = held.tenant_id AND l.subscription_id = held.subscription_id AND l.position = held.position;
    ELSE
        UPDATE quantum.pull_leases AS l
           SET position = held.behind, event_id = NULL, deliveries = 0, is_leased = false, due_at = clock_timestamp(),
               behind = NULL, first_at = clock_timestamp(), reason = NULL
         WHERE l.tenant_id = held.tenant_id AND l.subscription_id = held.subscription_id AND l.position = held.position;
    END IF;
END
$$;

-- Makes a dead letter of it, so that its subject goes on; false where there are `at_most` of them already: then it stays.
CREATE FUNCTION quantum.give_up_pulled(held quantum.pull_leases, why text, at_most integer) RETURNS boolean
    LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF (SELECT count(*) FROM quantum.pull_dead_letters AS d
         WHERE d.tenant_id = held.tenant_id AND d.subscription_id = held.subscription_id) >= at_most THEN
        RETURN false;
    END IF;
    INSERT INTO quantum.pull_dead_letters
           (tenant_id, subscription_id, position, event_id, stream_id, topic, deliveries, reason, first_at, dead_at)
    SELECT held.tenant_id, held.subscription_id, held.position, held.event_id, held.stream_id, e.topic, held.deliveries, why,
           held.first_at, clock_timestamp()
      FROM quantum.events AS e WHERE e.tenant_id = held.tenant_id AND e.position = held.position
        ON CONFLICT (tenant_id, subscription_id, position) DO UPDATE
       SET deliveries = excluded.deliveries, reason = excluded.reason, dead_at = excluded.dead_at, is_redriven = false;
    PERFORM quantum.settle_pulled(held);
    RETURN true;
END
$$;

-- Gives out up to `at_most` events and leases them. `up_to` is a horizon read before; the patterns are regular expressions, null
-- for everything; at most `looked_at_max` events behind the cursor are looked at, and some `bytes_max` of payload given out.
CREATE FUNCTION quantum.pull_events(
    tenant text, subscription text, begins_after bigint, begins_at timestamptz, up_to bigint, of_types text, of_subjects text,
    in_order boolean, at_most integer, lease_seconds double precision, unacknowledged_max integer, deliveries_max integer,
    dead_letters_max integer, looked_at_max integer, bytes_max integer
) RETURNS TABLE (
    deliveries integer, leased_until timestamptz, "position" bigint, recorded_at timestamptz, event_id uuid, command_id uuid,
    version integer, tenant_id text, stream_id text, topic text, metadata json, payload bytea
)
    LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp SET plan_cache_mode = force_custom_plan
AS $$
#variable_conflict use_column
DECLARE
    place quantum.pull_cursors;
    moment timestamptz;
    until timestamptz;
    held quantum.pull_leases;
    letter quantum.pull_dead_letters;
    one quantum.events;
    following bigint;
    reached bigint;
    given integer := 0;
    size bigint := 0;
    room integer;
BEGIN
    PERFORM set_config('app.tenant_id', tenant, true);
    SELECT * INTO place FROM quantum.pull_cursors AS c
     WHERE c.tenant_id = tenant AND c.subscription_id = subscription FOR UPDATE;
    IF NOT FOUND THEN
        INSERT INTO quantum.pull_cursors (tenant_id, subscription_id, cursor, since)
        VALUES (tenant, subscription, begins_after, begins_at) ON CONFLICT DO NOTHING;
        SELECT * INTO place FROM quantum.pull_cursors AS c
         WHERE c.tenant_id = tenant AND c.subscription_id = subscription FOR UPDATE;
    END IF;
    moment := clock_timestamp();  -- not that of the transaction's start: it may have waited for the lock
    until := moment + make_interval(secs => lease_seconds);

    -- What was given out in vain, and what waited behind such a one.
    FOR held IN SELECT * FROM quantum.pull_leases AS l
                 WHERE l.tenant_id = tenant AND l.subscription_id = subscription AND l.due_at <= moment ORDER BY l.position LOOP
        EXIT WHEN given >= at_most OR size > bytes_max;
        IF held.deliveries >= deliveries_max THEN
            CONTINUE WHEN quantum.give_up_pulled(
                held, coalesce(held.reason, format('It was not acknowledged in time, %s times.', held.deliveries)), dead_letters_max);
        END IF;
        following := held.behind;
        IF held.event_id IS NOT NULL THEN
            SELECT * INTO one FROM quantum.events AS e WHERE e.tenant_id = tenant AND e.position = held.position;
        ELSE
            SELECT * INTO one FROM quantum.events AS e
             WHERE e.tenant_id = tenant AND e.stream_id = held.stream_id AND e.position BETWEEN held.position AND place.cursor
               AND (of_types IS NULL OR ('quantum.' || e.topic) ~ of_types) ORDER BY e.version LIMIT 1;
            following := (SELECT e.position FROM quantum.events AS e
                           WHERE e.tenant_id = tenant AND e.stream_id = held.stream_id AND e.position > one.position
                             AND e.position <= place.cursor AND (of_types IS NULL OR ('quantum.' || e.topic) ~ of_types)
                           ORDER BY e.version LIMIT 1);
        END IF;
        IF one.position IS NULL THEN
            PERFORM quantum.settle_pulled(held);
            CONTINUE;
        END IF;
        UPDATE quantum.pull_leases AS l
           SET position = one.position, event_id = one.event_id, deliveries = held.deliveries + 1, is_leased = true, due_at = until,
               behind = following, reason = NULL
         WHERE l.tenant_id = tenant AND l.subscription_id = subscription AND l.position = held.position;
        given := given + 1;
        size := size + octet_length(one.payload);
        RETURN QUERY SELECT held.deliveries + 1, until, one.position, one.recorded_at, one.event_id, one.command_id, one.version,
                            one.tenant_id, one.stream_id, one.topic, one.metadata, one.payload;
    END LOOP;

    room := least(at_most - given, unacknowledged_max - (
        SELECT count(*) FROM quantum.pull_leases AS l WHERE l.tenant_id = tenant AND l.subscription_id = subscription));

    -- Dead letters that somebody asked for again.
    FOR letter IN SELECT * FROM quantum.pull_dead_letters AS d
                   WHERE d.tenant_id = tenant AND d.subscription_id = subscription AND d.is_redriven ORDER BY d.position LOOP
        EXIT WHEN room <= 0 OR size > bytes_max;
        CONTINUE WHEN in_order AND EXISTS (
            SELECT FROM quantum.pull_leases AS l
             WHERE l.tenant_id = tenant AND l.subscription_id = subscription AND l.stream_id = letter.stream_id);
        SELECT * INTO one FROM quantum.events AS e WHERE e.tenant_id = tenant AND e.position = letter.position;
        DELETE FROM quantum.pull_dead_letters AS d
         WHERE d.tenant_id = tenant AND d.subscription_id = subscription AND d.position = letter.position;
        CONTINUE WHEN one.position IS NULL;
        -- Where the cursor was set back in between, the event may have been given out anew.
        INSERT INTO quantum.pull_leases (tenant_id, subscription_id, position, event_id, stream_id, deliveries, is_leased, due_at, first_at)
        VALUES (tenant, subscription, one.position, one.event_id, one.stream_id, 1, true, until, moment) ON CONFLICT DO NOTHING;
        CONTINUE WHEN NOT FOUND;
        room := room - 1;
        size := size + octet_length(one.payload);
        RETURN QUERY SELECT 1, until, one.position, one.recorded_at, one.event_id, one.command_id, one.version,
                            one.tenant_id, one.stream_id, one.topic, one.metadata, one.payload;
    END LOOP;

    -- What is new.
    IF room <= 0 OR size > bytes_max OR up_to <= place.cursor THEN
        RETURN;
    END IF;
    reached := coalesce((SELECT e.position FROM quantum.events AS e
                          WHERE e.tenant_id = tenant AND e.position > place.cursor AND e.position <= up_to
                          ORDER BY e.position OFFSET looked_at_max - 1 LIMIT 1), up_to);
    FOR one IN SELECT * FROM quantum.events AS e
                WHERE e.tenant_id = tenant AND e.position > place.cursor AND e.position <= reached
                  AND (of_types IS NULL OR ('quantum.' || e.topic) ~ of_types)
                  AND (of_subjects IS NULL OR regexp_replace(e.stream_id, '-', '/') ~ of_subjects)
                  AND (place.since IS NULL OR e.recorded_at >= place.since)
                ORDER BY e.position LOOP
        IF in_order THEN
            SELECT * INTO held FROM quantum.pull_leases AS l
             WHERE l.tenant_id = tenant AND l.subscription_id = subscription AND l.stream_id = one.stream_id LIMIT 1;
            IF FOUND THEN
                IF held.behind IS NULL THEN
                    UPDATE quantum.pull_leases AS l SET behind = one.position
                     WHERE l.tenant_id = tenant AND l.subscription_id = subscription AND l.position = held.position;
                END IF;
                CONTINUE;
            END IF;
        END IF;
        IF room <= 0 OR size > bytes_max THEN
            reached := one.position - 1;
            EXIT;
        END IF;
        INSERT INTO quantum.pull_leases (tenant_id, subscription_id, position, event_id, stream_id, deliveries, is_leased, due_at, first_at)
        VALUES (tenant, subscription, one.position, one.event_id, one.stream_id, 1, true, until, moment) ON CONFLICT DO NOTHING;
        CONTINUE WHEN NOT FOUND;
        room := room - 1;
        size := size + octet_length(one.payload);
        RETURN QUERY SELECT 1, until, one.position, one.recorded_at, one.event_id, one.command_id, one.version,
                            one.tenant_id, one.stream_id, one.topic, one.metadata, one.payload;
    END LOOP;
    UPDATE quantum.pull_cursors AS c SET cursor = reached WHERE c.tenant_id = tenant AND c.subscription_id = subscription;
END
$$;
REVOKE ALL ON FUNCTION quantum.settle_pulled, quantum.give_up_pulled, quantum.pull_events FROM PUBLIC;
GRANT EXECUTE ON FUNCTION quantum.settle_pulled, quantum.give_up_pulled, quantum.pull_events TO quantum_app;
