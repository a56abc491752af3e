-- intent_ref: event-store.append
-- The append protocol as before (migration 0005, which says what is what), with less looking: that a new stream is new, and that a
-- command was not seen before, is left to the unique indexes. Whoever breaks one sends the batch again, this time carefully.
-- The locks stay: a stream that another transaction is writing to is busy, and nobody waits for it at the index.
DROP FUNCTION quantum.append_events;
CREATE FUNCTION quantum.append_events(
    batch_tenants text,         -- an array literal of the tenants named below, each once
    part_appends integer[], part_tenants text[], part_streams text[], part_expected integer[], part_commands uuid[],
    part_metadata text[],
    part_indexes integer[],     -- place of the part's first event among its command's, from 0
    part_counts integer[],      -- its number of events
    event_ids uuid[], event_topics text[], event_payloads bytea[],
    claim_appends integer[], claim_tenants text[], claim_scopes text[], claim_values text[], claim_streams text[],
    claim_takes boolean[],
    careful boolean DEFAULT true, -- false: leave it to the unique indexes to find what is there already
    OUT busy integer[],         -- appends to be tried again
    OUT repeated integer[],     -- appends whose command is in the log already
    OUT conflicted integer[],   -- appends of which a part expected another version
    OUT claimed integer[],      -- appends of which a claim is held by another stream
    OUT heads integer[],        -- per part: the stream's version before this append
    OUT positions bigint[],     -- of the stored events; in their order once sorted
    OUT recorded_at timestamptz
)
    LANGUAGE plpgsql VOLATILE SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    SET plan_cache_mode = force_generic_plan
AS $$
#variable_conflict use_column
DECLARE
    has_claims CONSTANT boolean := cardinality(claim_appends) > 0;
    refused integer[];
    ignored text;
BEGIN
    IF pg_advisory_xact_lock_shared(20821::bigint << 48 | pg_sequence_last_value('quantum.event_position')) IS NULL THEN
        NULL; -- locked either way: a condition is the one place where a function without a result needs no query
    END IF;
    ignored := set_config('app.batch_tenants', batch_tenants, true);
    recorded_at := now();

    SELECT array_agg(part.append) INTO busy
      FROM unnest(part_appends, part_tenants, part_streams) AS part (append, tenant, stream)
     WHERE NOT pg_try_advisory_xact_lock(20822, hashtext('stream/' || part.tenant || '/' || part.stream));
    IF has_claims THEN
        SELECT busy || array_agg(claim.append) INTO busy
          FROM unnest(claim_appends, claim_tenants, claim_scopes, claim_values) AS claim (append, tenant, scope, value)
         WHERE NOT pg_try_advisory_xact_lock(20822, hashtext('claim/' || claim.tenant || '/' || claim.scope || '/' || claim.value));
    END IF;

    -- The locks are held from here on, and each statement below takes its own snapshot: what it sees stays true.
    SELECT array_agg(stream.head),
           array_agg(stream.append) FILTER (WHERE stream.expected >= 0 AND stream.expected <> stream.head)
      INTO heads, conflicted
      FROM (
        SELECT part.append, part.expected,
               CASE WHEN part.expected = 0 AND NOT careful THEN 0
                    ELSE coalesce((SELECT event.version FROM quantum.events AS event
                                    WHERE event.tenant_id = part.tenant AND event.stream_id = part.stream
                                    ORDER BY event.version DESC LIMIT 1), 0)
               END AS head
          FROM unnest(part_appends, part_tenants, part_streams, part_expected) AS part (append, tenant, stream, expected)
      ) AS stream;

    -- A repeated command is told apart from a conflict; one that meets no conflict meets the unique index.
    IF careful OR conflicted IS NOT NULL THEN
        SELECT array_agg(part.append) INTO repeated
          FROM unnest(part_appends, part_tenants, part_commands) AS part (append, tenant, command)
         WHERE (SELECT true FROM quantum.events AS event
                 WHERE event.tenant_id = part.tenant AND event.command_id = part.command AND event.command_index = 0
                 LIMIT 1);
    END IF;

    IF has_claims THEN
        SELECT array_agg(claim.append) FILTER (WHERE claim.takes AND claim.holder <> claim.stream) INTO claimed
          FROM (
            SELECT wanted.append, wanted.takes, wanted.stream,
                   (SELECT held.stream_id FROM quantum.claims AS held
                     WHERE held.tenant_id = wanted.tenant AND held.scope = wanted.scope AND held.value = wanted.value
                     LIMIT 1) AS holder
              FROM unnest(claim_appends, claim_tenants, claim_scopes, claim_values, claim_streams, claim_takes)
                   AS wanted (append, tenant, scope, value, stream, takes)
          ) AS claim;
    END IF;

    refused := coalesce(busy || repeated || conflicted || claimed, '{}');

    IF cardinality(event_ids) = cardinality(part_appends) THEN
        -- One event a part, as nearly always: the arrays of parts and of events lie side by side.
        WITH inserted AS (
            INSERT INTO quantum.events
                   (event_id, command_id, command_index, version, tenant_id, stream_id, topic, metadata, payload)
            SELECT part.id, part.command, part.index, part.head + 1,
                   part.tenant, part.stream, part.topic, part.metadata::json, part.payload
              FROM unnest(part_appends, part_tenants, part_streams, part_commands, part_metadata, part_indexes, heads,
                          event_ids, event_topics, event_payloads)
                   AS part (append, tenant, stream, command, metadata, index, head, id, topic, payload)
             WHERE part.append <> ALL (refused)
            RETURNING quantum.events.position
        )
        SELECT array_agg(inserted.position) INTO positions FROM inserted;
    ELSE
        WITH inserted AS (
            INSERT INTO quantum.events
                   (event_id, command_id, command_index, version, tenant_id, stream_id, topic, metadata, payload)
            SELECT event.id, part.command, part.index + event.number::integer - 1, part.head + event.number::integer,
                   part.tenant, part.stream, event.topic, part.metadata::json, event.payload
              FROM (
                SELECT sent.*, (sum(sent.events) OVER (ROWS UNBOUNDED PRECEDING))::integer AS last_event
                  FROM unnest(part_appends, part_tenants, part_streams, part_commands, part_metadata, part_indexes, heads,
                              part_counts) AS sent (append, tenant, stream, command, metadata, index, head, events)
              ) AS part,
              LATERAL unnest(event_ids[part.last_event - part.events + 1 : part.last_event],
                             event_topics[part.last_event - part.events + 1 : part.last_event],
                             event_payloads[part.last_event - part.events + 1 : part.last_event])
                      WITH ORDINALITY AS event (id, topic, payload, number)
             WHERE part.append <> ALL (refused)
            RETURNING quantum.events.position
        )
        SELECT array_agg(inserted.position) INTO positions FROM inserted;
    END IF;

    IF has_claims THEN
        IF false = ANY (claim_takes) THEN
            DELETE FROM quantum.claims AS held WHERE held.ctid = ANY (ARRAY(
                SELECT (SELECT own.ctid FROM quantum.claims AS own
                         WHERE own.tenant_id = claim.tenant AND own.scope = claim.scope AND own.value = claim.value
                           AND own.stream_id = claim.stream LIMIT 1)
                  FROM unnest(claim_appends, claim_tenants, claim_scopes, claim_values, claim_streams, claim_takes)
                       AS claim (append, tenant, scope, value, stream, takes)
                 WHERE NOT claim.takes AND claim.append <> ALL (refused)
            ));
        END IF;
        INSERT INTO quantum.claims (tenant_id, scope, value, stream_id)
        SELECT claim.tenant, claim.scope, claim.value, claim.stream
          FROM unnest(claim_appends, claim_tenants, claim_scopes, claim_values, claim_streams, claim_takes)
               AS claim (append, tenant, scope, value, stream, takes)
         WHERE claim.takes AND claim.append <> ALL (refused)
            ON CONFLICT (tenant_id, scope, value) DO NOTHING;
    END IF;
END
$$;

REVOKE ALL ON FUNCTION quantum.append_events FROM PUBLIC;
GRANT EXECUTE ON FUNCTION quantum.append_events TO quantum_app, quantum_platform;
GRANT CREATE ON SCHEMA quantum TO quantum_log_writer;
ALTER FUNCTION quantum.append_events OWNER TO quantum_log_writer;
REVOKE CREATE ON SCHEMA quantum FROM quantum_log_writer;
