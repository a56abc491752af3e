-- intent_ref: event-store.append
-- The append protocol, whole: many callers' appends in one transaction and one round trip, each answered on its own.
--
-- An append belongs to one tenant and one command; it has parts (one a stream, each with its expected version: -1 any, 0 no
-- stream, n exactly n) and claims. All of an append is stored, or nothing of it. Indexes below are 1-based.
--
-- 1. A shared advisory lock named after the last position given out says "from here on I may be writing": log_horizon()
--    never passes it while this transaction lives, so no reader skips an event that commits late (docs/adr/0002).
-- 2. Stream, command and claim are locked by *trying*: whoever comes second is told `busy` and comes again, so nobody
--    waits for a stranger's transaction, and there are no deadlocks. Under these locks the checks below are final.
-- 3. Heads, repeated commands and taken claims are looked up; refused appends are left out of the insert.
CREATE FUNCTION quantum.append_events(
    append_tenants text[], append_commands uuid[], append_metadata text[],
    part_appends integer[], part_streams text[], part_expected integer[],
    event_parts integer[], event_offsets integer[], event_indexes integer[],
    event_ids uuid[], event_topics text[], event_payloads bytea[],
    claim_appends integer[], claim_scopes text[], claim_values text[], claim_streams text[], claim_takes boolean[],
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
AS $$
#variable_conflict use_column
DECLARE
    position_floor bigint;
    refused integer[];
BEGIN
    SELECT last_value INTO position_floor FROM quantum.event_position;
    PERFORM pg_advisory_xact_lock_shared(20821::bigint << 48 | position_floor);
    PERFORM set_config('app.batch_tenants', append_tenants::text, true);

    SELECT array_agg(DISTINCT tried.append) INTO busy FROM (
        SELECT part.append, 'stream/' || tenant.id || '/' || part.stream AS resource
          FROM unnest(part_appends, part_streams) AS part (append, stream)
          JOIN unnest(append_tenants) WITH ORDINALITY AS tenant (id, append) USING (append)
        UNION ALL
        SELECT command.append, 'command/' || command.tenant || '/' || command.id
          FROM unnest(append_tenants, append_commands) WITH ORDINALITY AS command (tenant, id, append)
        UNION ALL
        SELECT claim.append, 'claim/' || tenant.id || '/' || claim.scope || '/' || claim.value
          FROM unnest(claim_appends, claim_scopes, claim_values) AS claim (append, scope, value)
          JOIN unnest(append_tenants) WITH ORDINALITY AS tenant (id, append) USING (append)
    ) AS tried
    WHERE NOT pg_try_advisory_xact_lock(20822, hashtext(tried.resource));

    SELECT array_agg(stream.head ORDER BY stream.part),
           array_agg(DISTINCT stream.append) FILTER (WHERE stream.expected >= 0 AND stream.expected <> stream.head)
      INTO heads, conflicted
      FROM (
        SELECT part.number AS part, part.append, part.expected,
               coalesce((SELECT event.version FROM quantum.events AS event
                          WHERE event.tenant_id = tenant.id AND event.stream_id = part.stream
                          ORDER BY event.version DESC LIMIT 1), 0) AS head
          FROM unnest(part_appends, part_streams, part_expected) WITH ORDINALITY AS part (append, stream, expected, number)
          JOIN unnest(append_tenants) WITH ORDINALITY AS tenant (id, append) USING (append)
      ) AS stream;

    SELECT array_agg(command.append) INTO repeated
      FROM unnest(append_tenants, append_commands) WITH ORDINALITY AS command (tenant, id, append)
     WHERE EXISTS (SELECT FROM quantum.events AS event
                    WHERE event.tenant_id = command.tenant AND event.command_id = command.id AND event.command_index = 0);

    IF cardinality(claim_appends) > 0 THEN
        SELECT array_agg(DISTINCT claim.append) INTO claimed
          FROM unnest(claim_appends, claim_scopes, claim_values, claim_streams, claim_takes)
               AS claim (append, scope, value, stream, takes)
          JOIN unnest(append_tenants) WITH ORDINALITY AS tenant (id, append) USING (append)
          JOIN quantum.claims AS held
            ON held.tenant_id = tenant.id AND held.scope = claim.scope AND held.value = claim.value
         WHERE claim.takes AND held.stream_id <> claim.stream;
    END IF;

    refused := busy || repeated || conflicted || claimed;

    WITH inserted AS (
        INSERT INTO quantum.events
               (event_id, command_id, command_index, version, tenant_id, stream_id, topic, metadata, payload)
        SELECT event.id, append.command, event.index, heads[event.part] + event.version,
               append.tenant, part.stream, event.topic, append.metadata::json, event.payload
          FROM unnest(event_parts, event_offsets, event_indexes, event_ids, event_topics, event_payloads)
               WITH ORDINALITY AS event (part, version, index, id, topic, payload, number)
          JOIN unnest(part_appends, part_streams) WITH ORDINALITY AS part (append, stream, number)
            ON part.number = event.part
          JOIN unnest(append_tenants, append_commands, append_metadata) WITH ORDINALITY
               AS append (tenant, command, metadata, number)
            ON append.number = part.append
         WHERE refused IS NULL OR append.number <> ALL (refused)
         ORDER BY event.number
        RETURNING quantum.events.position
    )
    SELECT array_agg(inserted.position ORDER BY inserted.position), now() INTO positions, recorded_at FROM inserted;

    IF cardinality(claim_appends) > 0 THEN
        DELETE FROM quantum.claims AS held
         USING unnest(claim_appends, claim_scopes, claim_values, claim_streams, claim_takes)
               AS claim (append, scope, value, stream, takes)
          JOIN unnest(append_tenants) WITH ORDINALITY AS tenant (id, append) USING (append)
         WHERE NOT claim.takes AND (refused IS NULL OR claim.append <> ALL (refused))
           AND held.tenant_id = tenant.id AND held.scope = claim.scope AND held.value = claim.value
           AND held.stream_id = claim.stream;
        INSERT INTO quantum.claims (tenant_id, scope, value, stream_id)
        SELECT tenant.id, claim.scope, claim.value, claim.stream
          FROM unnest(claim_appends, claim_scopes, claim_values, claim_streams, claim_takes)
               AS claim (append, scope, value, stream, takes)
          JOIN unnest(append_tenants) WITH ORDINALITY AS tenant (id, append) USING (append)
         WHERE claim.takes AND (refused IS NULL OR claim.append <> ALL (refused))
            ON CONFLICT (tenant_id, scope, value) DO NOTHING;
    END IF;
END
$$;

REVOKE ALL ON FUNCTION quantum.append_events FROM PUBLIC;
GRANT EXECUTE ON FUNCTION quantum.append_events TO quantum_app, quantum_platform;
GRANT CREATE ON SCHEMA quantum TO quantum_log_writer;
ALTER FUNCTION quantum.append_events OWNER TO quantum_log_writer;
REVOKE CREATE ON SCHEMA quantum FROM quantum_log_writer;
