-- intent_ref: event-store.append
-- The append protocol, whole: many callers' appends in one transaction and one round trip, each answered on its own.
--
-- An append belongs to one tenant and one command; it has parts (one a stream, each with its expected version: -1 any, 0 no
-- stream, n exactly n) and claims. All of an append is stored, or nothing of it. Appends are numbered from 1, in the order
-- given; so are parts, whose events lie one after the other in event_ids, event_topics and event_payloads.
--
-- 1. A shared advisory lock named after the last position given out says "from here on I may be writing": log_horizon()
--    never passes it while this transaction lives, so no reader skips an event that commits late (docs/adr/0002).
-- 2. Stream and claim are locked by *trying*: whoever comes second is told `busy` and comes again, so nobody waits for a
--    stranger's transaction, and there are no deadlocks. Under these locks the checks below are final. A command is not
--    locked: the same one goes to the same stream; should two streams ever be given one command id at the same moment, the
--    unique index refuses the second, which then comes again and finds the first.
-- 3. Heads, repeated commands and taken claims are looked up; refused appends are left out of the insert.
--
-- What a batch of one costs is mostly the number of statements, so there are few, and what needs no query is an assignment.
-- Nothing is joined, and every lookup is a scalar subquery, so that its plan is an index scan whatever the statistics say.
CREATE FUNCTION quantum.append_events(
    batch_tenants text,         -- an array literal of the tenants named below, each once
    part_appends integer[], part_tenants text[], part_streams text[], part_expected integer[], part_commands uuid[],
    part_metadata text[],
    part_indexes integer[],     -- place of the part's first event among its command's, from 0
    part_counts integer[],      -- its number of events
    event_ids uuid[], event_topics text[], event_payloads bytea[],
    claim_appends integer[], claim_tenants text[], claim_scopes text[], claim_values text[], claim_streams text[],
    claim_takes boolean[],
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
           array_agg(stream.append) FILTER (WHERE stream.expected >= 0 AND stream.expected <> stream.head),
           array_agg(stream.append) FILTER (WHERE stream.is_repeated)
      INTO heads, conflicted, repeated
      FROM (
        SELECT part.append, part.expected,
               coalesce((SELECT event.version FROM quantum.events AS event
                          WHERE event.tenant_id = part.tenant AND event.stream_id = part.stream
                          ORDER BY event.version DESC LIMIT 1), 0) AS head,
               (SELECT true FROM quantum.events AS event
                 WHERE event.tenant_id = part.tenant AND event.command_id = part.command AND event.command_index = 0
                 LIMIT 1) AS is_repeated
          FROM unnest(part_appends, part_tenants, part_streams, part_expected, part_commands)
               AS part (append, tenant, stream, expected, command)
      ) AS stream;

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
