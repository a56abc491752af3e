-- intent_ref: event-store.append
-- The append protocol, whole: many callers' appends in one transaction and one round trip, each answered on its own.
--
-- An append belongs to one tenant and one command; it has parts (one a stream, each with its expected version: -1 any, 0 no
-- stream, n exactly n) and claims. All of an append is stored, or nothing of it. Indexes below are 1-based.
--
-- 1. A shared advisory lock named after the last position given out says "from here on I may be writing": log_horizon()
--    never passes it while this transaction lives, so no reader skips an event that commits late (docs/adr/0002).
-- 2. Stream and claim are locked by *trying*: whoever comes second is told `busy` and comes again, so nobody waits for a
--    stranger's transaction, and there are no deadlocks. Under these locks the checks below are final. A command is not
--    locked: the same one goes to the same stream; should two streams ever be given one command id at the same moment, the
--    unique index refuses the second, which then comes again and finds the first.
-- 3. Heads, repeated commands and taken claims are looked up; refused appends are left out of the insert.
--
-- Every array carries what its rows need (tenant, stream), so that nothing is joined, and every lookup is a scalar subquery,
-- so that its plan is an index scan whatever the statistics say; one generic plan serves all calls.
CREATE FUNCTION quantum.append_events(
    append_tenants text[], append_commands uuid[],
    part_appends integer[], part_tenants text[], part_streams text[], part_expected integer[],
    event_appends integer[], event_parts integer[], event_offsets integer[], event_indexes integer[],
    event_tenants text[], event_streams text[], event_commands uuid[],
    event_ids uuid[], event_topics text[], event_metadata text[], event_payloads bytea[],
    claim_appends integer[], claim_tenants text[], claim_scopes text[], claim_values text[], claim_streams text[],
    claim_takes boolean[],
    OUT busy integer[],         -- appends to be tried again
    OUT repeated integer[],     -- appends whose command is in the log already
    OUT conflicted integer[],   -- appends of which a part expected another version
    OUT claimed integer[],      -- appends of which a claim is held by another stream
    OUT heads integer[],        -- per part: the stream's version before this append
    OUT positions bigint[],     -- per stored event, in the order given
    OUT recorded_at timestamptz
)
    LANGUAGE plpgsql VOLATILE SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    SET plan_cache_mode = force_generic_plan
AS $$
#variable_conflict use_column
DECLARE
    position_floor bigint;
    refused integer[];
BEGIN
    SELECT last_value INTO position_floor FROM quantum.event_position;
    PERFORM pg_advisory_xact_lock_shared(20821::bigint << 48 | position_floor);
    PERFORM set_config('app.batch_tenants', append_tenants::text, true);

    SELECT array_agg(tried.append) INTO busy FROM (
        SELECT part.append, 'stream/' || part.tenant || '/' || part.stream AS resource
          FROM unnest(part_appends, part_tenants, part_streams) AS part (append, tenant, stream)
        UNION ALL
        SELECT claim.append, 'claim/' || claim.tenant || '/' || claim.scope || '/' || claim.value
          FROM unnest(claim_appends, claim_tenants, claim_scopes, claim_values) AS claim (append, tenant, scope, value)
    ) AS tried
    WHERE NOT pg_try_advisory_xact_lock(20822, hashtext(tried.resource));

    -- The locks are held from here on, and each statement below takes its own snapshot: what it sees stays true.
    SELECT array_agg(stream.head ORDER BY stream.part),
           array_agg(stream.append) FILTER (WHERE stream.expected >= 0 AND stream.expected <> stream.head)
      INTO heads, conflicted
      FROM (
        SELECT part.number AS part, part.append, part.expected,
               coalesce((SELECT event.version FROM quantum.events AS event
                          WHERE event.tenant_id = part.tenant AND event.stream_id = part.stream
                          ORDER BY event.version DESC LIMIT 1), 0) AS head
          FROM unnest(part_appends, part_tenants, part_streams, part_expected)
               WITH ORDINALITY AS part (append, tenant, stream, expected, number)
      ) AS stream;

    SELECT array_agg(command.append) FILTER (WHERE command.is_stored) INTO repeated
      FROM (
        SELECT sent.append,
               (SELECT true FROM quantum.events AS event
                 WHERE event.tenant_id = sent.tenant AND event.command_id = sent.id AND event.command_index = 0
                 LIMIT 1) AS is_stored
          FROM unnest(append_tenants, append_commands) WITH ORDINALITY AS sent (tenant, id, append)
      ) AS command;

    IF cardinality(claim_appends) > 0 THEN
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

    WITH inserted AS (
        INSERT INTO quantum.events
               (event_id, command_id, command_index, version, tenant_id, stream_id, topic, metadata, payload)
        SELECT event.id, event.command, event.index, heads[event.part] + event.version,
               event.tenant, event.stream, event.topic, event.metadata::json, event.payload
          FROM unnest(event_appends, event_parts, event_offsets, event_indexes, event_tenants, event_streams,
                      event_commands, event_ids, event_topics, event_metadata, event_payloads)
               AS event (append, part, version, index, tenant, stream, command, id, topic, metadata, payload)
         WHERE event.append <> ALL (refused)
        RETURNING quantum.events.position
    )
    SELECT array_agg(inserted.position), now() INTO positions, recorded_at FROM inserted;

    IF cardinality(claim_appends) > 0 THEN
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
