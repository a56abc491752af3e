-- intent_ref: event-store.eventsourcing-adapter
-- What the recorders of the `eventsourcing` package need beside the log. Their events are in quantum.events; here is only where
-- each one is, under the keys that package gives them.
--
-- Why a table: its versions are the caller's (from 0 or from 1; snapshots at any, in any order), so they cannot be the dense
-- versions of our streams; and it promises notification ids that never interleave, which positions of a log shared by many
-- writers cannot. `notification_id` counts an application's events without gaps: its inserts wait for each other, so the order of
-- the ids is the order of commits and a reader needs no horizon. Recorders without notifications leave it empty.
CREATE TABLE quantum.recorder_events (
    tenant_id          text COLLATE "C" NOT NULL,
    sequence           text COLLATE "C" NOT NULL,
    originator_id      text COLLATE "C" NOT NULL,
    originator_version bigint NOT NULL,
    notification_id    bigint,
    position           bigint NOT NULL,
    topic              text COLLATE "C" NOT NULL,
    PRIMARY KEY (tenant_id, sequence, originator_id, originator_version)
);
CREATE UNIQUE INDEX recorder_events_by_notification ON quantum.recorder_events (tenant_id, sequence, notification_id)
    WHERE notification_id IS NOT NULL;

-- How far a follower has processed the notifications of each application it follows.
CREATE TABLE quantum.recorder_tracking (
    tenant_id        text COLLATE "C" NOT NULL,
    tracker          text COLLATE "C" NOT NULL,
    application_name text COLLATE "C" NOT NULL,
    notification_id  bigint NOT NULL,
    PRIMARY KEY (tenant_id, tracker, application_name)
) WITH (fillfactor = 50);

DO $$
DECLARE
    table_name text;
BEGIN
    FOREACH table_name IN ARRAY ARRAY['recorder_events', 'recorder_tracking'] LOOP
        EXECUTE format('ALTER TABLE quantum.%I ENABLE ROW LEVEL SECURITY', table_name);
        EXECUTE format('ALTER TABLE quantum.%I FORCE ROW LEVEL SECURITY', table_name);
        EXECUTE format(
            'CREATE POLICY tenant_rows ON quantum.%I TO quantum_app USING (tenant_id = (SELECT quantum.current_tenant()))'
            ' WITH CHECK (tenant_id = (SELECT quantum.current_tenant()))', table_name);
    END LOOP;
END
$$;
GRANT SELECT, INSERT ON quantum.recorder_events TO quantum_app;
GRANT SELECT, INSERT, UPDATE ON quantum.recorder_tracking TO quantum_app;

-- Says that a follower has processed an application's notifications up to this one; a unique_violation where it had already.
CREATE FUNCTION quantum.track_notification(in_tenant text, in_tracker text, in_application text, in_notification bigint)
    RETURNS void
    LANGUAGE plpgsql VOLATILE
AS $$
BEGIN
    PERFORM set_config('app.tenant_id', in_tenant, true);
    INSERT INTO quantum.recorder_tracking AS known (tenant_id, tracker, application_name, notification_id)
    VALUES (in_tenant, in_tracker, in_application, in_notification)
        ON CONFLICT (tenant_id, tracker, application_name) DO UPDATE SET notification_id = excluded.notification_id
         WHERE known.notification_id < excluded.notification_id;
    IF NOT FOUND THEN
        RAISE unique_violation USING MESSAGE =
            format('%s has already processed notification %s of %s', in_tracker, in_notification, in_application);
    END IF;
END
$$;

-- Stores the events of one insert: in the log by quantum.append_events, here under their keys, with the tracking of the
-- notification they come from; all or nothing. Sent again with the same command it stores nothing and answers the same.
CREATE FUNCTION quantum.insert_stored_events(
    in_tenant text, in_sequence text, numbered boolean, in_command uuid, in_metadata text,
    part_streams text[], event_parts integer[], event_offsets integer[],
    originators text[], versions bigint[], topics text[], event_ids uuid[], payloads bytea[],
    in_tracker text, tracked_application text, tracked_notification bigint,
    OUT busy boolean,               -- somebody else is writing one of the streams: nothing was stored, try again
    OUT notification_ids bigint[]   -- in the order given; empty unless numbered
)
    LANGUAGE plpgsql VOLATILE
    SET lock_timeout = '10s'
    SET plan_cache_mode = force_generic_plan
AS $$
DECLARE
    parts integer := cardinality(part_streams);
    events integer := cardinality(originators);
    counts integer[];
    firsts integer[];
    part_ids uuid[];
    part_payloads bytea[];
    answer record;
    last_id bigint;
BEGIN
    PERFORM set_config('app.tenant_id', in_tenant, true);
    busy := false;
    IF events > 0 THEN
        IF numbered THEN
            -- Before append_events, so that whoever waits here holds no horizon back.
            PERFORM pg_advisory_xact_lock(20829, hashtext(in_tenant || '/' || in_sequence));
        END IF;
        -- append_events wants the events of a part side by side.
        SELECT array_agg(part.events), array_agg(part.first) INTO counts, firsts
          FROM (
            SELECT count(*)::integer AS events, (sum(count(*)) OVER (ORDER BY sent.part) - count(*))::integer AS first
              FROM unnest(event_parts) AS sent (part) GROUP BY sent.part ORDER BY sent.part
          ) AS part;
        SELECT array_agg(sent.id ORDER BY sent.part, sent.place), array_agg(sent.payload ORDER BY sent.part, sent.place)
          INTO part_ids, part_payloads
          FROM unnest(event_parts, event_offsets, event_ids, payloads) AS sent (part, place, id, payload);
        SELECT * INTO answer FROM quantum.append_events(
            ARRAY[in_tenant]::text,
            array_fill(1, ARRAY[parts]), array_fill(in_tenant, ARRAY[parts]), part_streams, array_fill(-1, ARRAY[parts]),
            array_fill(in_command, ARRAY[parts]), array_fill(in_metadata, ARRAY[parts]), firsts, counts,
            part_ids, array_fill('eventsourcing.stored.v1'::text, ARRAY[events]), part_payloads,
            '{}', '{}', '{}', '{}', '{}', '{}');
        IF answer.busy IS NOT NULL THEN
            busy := true;
            RETURN;
        END IF;
        IF answer.repeated IS NOT NULL THEN
            notification_ids := ARRAY(
                SELECT (SELECT known.notification_id FROM quantum.recorder_events AS known
                         WHERE known.tenant_id = in_tenant AND known.sequence = in_sequence
                           AND known.originator_id = sent.originator AND known.originator_version = sent.version
                           AND known.notification_id IS NOT NULL)
                  FROM unnest(originators, versions) WITH ORDINALITY AS sent (originator, version, number)
                 ORDER BY sent.number);
            RETURN;
        END IF;
        IF numbered THEN
            SELECT known.notification_id INTO last_id FROM quantum.recorder_events AS known
             WHERE known.tenant_id = in_tenant AND known.sequence = in_sequence AND known.notification_id IS NOT NULL
             ORDER BY known.notification_id DESC LIMIT 1;
            last_id := coalesce(last_id, 0);
            notification_ids := ARRAY(SELECT generate_series(last_id + 1, last_id + events));
        END IF;
        INSERT INTO quantum.recorder_events
               (tenant_id, sequence, originator_id, originator_version, notification_id, position, topic)
        SELECT in_tenant, in_sequence, stored.originator, stored.version, stored.notification, stored.position, stored.topic
          FROM unnest(originators, versions, notification_ids, topics,
                      ARRAY(SELECT given.positions[sent.rank]
                              FROM (SELECT ARRAY(SELECT unnest(answer.positions) ORDER BY 1) AS positions) AS given,
                                   (SELECT part.number, row_number() OVER (ORDER BY part.part, part.place) AS rank
                                      FROM unnest(event_parts, event_offsets) WITH ORDINALITY AS part (part, place, number)
                                   ) AS sent
                             ORDER BY sent.number))
               AS stored (originator, version, notification, topic, position);
    END IF;
    IF tracked_application IS NOT NULL THEN
        PERFORM quantum.track_notification(in_tenant, in_tracker, tracked_application, tracked_notification);
    END IF;
END
$$;

-- The events of one originator between two versions. Payloads by scalar subquery: an index scan whatever the statistics say.
CREATE FUNCTION quantum.read_stored_events(
    in_tenant text, in_sequence text, in_originator text, after_version bigint, up_to_version bigint, backward boolean,
    at_most bigint
) RETURNS TABLE (originator_version bigint, topic text, payload bytea)
    LANGUAGE plpgsql VOLATILE
AS $$
#variable_conflict use_column
BEGIN
    PERFORM set_config('app.tenant_id', in_tenant, true);
    IF backward THEN
        RETURN QUERY
        SELECT known.originator_version, known.topic,
               (SELECT event.payload FROM quantum.events AS event
                 WHERE event.tenant_id = in_tenant AND event.position = known.position LIMIT 1)
          FROM quantum.recorder_events AS known
         WHERE known.tenant_id = in_tenant AND known.sequence = in_sequence AND known.originator_id = in_originator
           AND known.originator_version > coalesce(after_version, -9223372036854775808)
           AND known.originator_version <= coalesce(up_to_version, 9223372036854775807)
         ORDER BY known.originator_version DESC LIMIT at_most;
    ELSE
        RETURN QUERY
        SELECT known.originator_version, known.topic,
               (SELECT event.payload FROM quantum.events AS event
                 WHERE event.tenant_id = in_tenant AND event.position = known.position LIMIT 1)
          FROM quantum.recorder_events AS known
         WHERE known.tenant_id = in_tenant AND known.sequence = in_sequence AND known.originator_id = in_originator
           AND known.originator_version > coalesce(after_version, -9223372036854775808)
           AND known.originator_version <= coalesce(up_to_version, 9223372036854775807)
         ORDER BY known.originator_version LIMIT at_most;
    END IF;
END
$$;

-- An application's notifications from one id to another, of some topics or (an empty list) of all.
CREATE FUNCTION quantum.read_notifications(
    in_tenant text, in_sequence text, from_id bigint, to_id bigint, topics text[], at_most bigint
) RETURNS TABLE (notification_id bigint, originator_id text, originator_version bigint, topic text, payload bytea)
    LANGUAGE plpgsql VOLATILE
AS $$
#variable_conflict use_column
BEGIN
    PERFORM set_config('app.tenant_id', in_tenant, true);
    RETURN QUERY
    SELECT known.notification_id, known.originator_id, known.originator_version, known.topic,
           (SELECT event.payload FROM quantum.events AS event
             WHERE event.tenant_id = in_tenant AND event.position = known.position LIMIT 1)
      FROM quantum.recorder_events AS known
     WHERE known.tenant_id = in_tenant AND known.sequence = in_sequence AND known.notification_id >= from_id
       AND known.notification_id <= coalesce(to_id, 9223372036854775807)
       AND (cardinality(topics) = 0 OR known.topic = ANY (topics))
     ORDER BY known.notification_id LIMIT at_most;
END
$$;

-- The newest notification of an application, or NULL.
CREATE FUNCTION quantum.last_notification(in_tenant text, in_sequence text) RETURNS bigint
    LANGUAGE plpgsql VOLATILE
AS $$
BEGIN
    PERFORM set_config('app.tenant_id', in_tenant, true);
    RETURN (SELECT known.notification_id FROM quantum.recorder_events AS known
             WHERE known.tenant_id = in_tenant AND known.sequence = in_sequence AND known.notification_id IS NOT NULL
             ORDER BY known.notification_id DESC LIMIT 1);
END
$$;

-- How far a follower has come with an application's notifications, or NULL.
CREATE FUNCTION quantum.tracked_notification(in_tenant text, in_tracker text, in_application text) RETURNS bigint
    LANGUAGE plpgsql VOLATILE
AS $$
BEGIN
    PERFORM set_config('app.tenant_id', in_tenant, true);
    RETURN (SELECT known.notification_id FROM quantum.recorder_tracking AS known
             WHERE known.tenant_id = in_tenant AND known.tracker = in_tracker AND known.application_name = in_application);
END
$$;

REVOKE ALL ON FUNCTION quantum.track_notification, quantum.insert_stored_events, quantum.read_stored_events,
    quantum.read_notifications, quantum.last_notification, quantum.tracked_notification FROM PUBLIC;
GRANT EXECUTE ON FUNCTION quantum.track_notification, quantum.insert_stored_events, quantum.read_stored_events,
    quantum.read_notifications, quantum.last_notification, quantum.tracked_notification TO quantum_app;
