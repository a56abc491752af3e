-- intent_ref: event-store.subscription-secrets
-- The headers of webhooks are sealed like the secrets they are signed with, in the same table, and everything else knows their
-- names alone. What was derived from the log while events held the values is brought to that form here; events of that time stay
-- as they are and are read by the deliverer alone.
--
-- Row-level security binds the owner too, who has no policy: it is lifted for the length of this migration.
ALTER TABLE quantum.webhook_subscriptions NO FORCE ROW LEVEL SECURITY;
UPDATE quantum.webhook_subscriptions AS s
   SET config = jsonb_set(
           s.config::jsonb, '{terms,headers}',
           (SELECT coalesce(jsonb_agg(name), '[]') FROM jsonb_object_keys(s.config::jsonb #> '{terms,headers}') AS named (name))
       )::json
 WHERE jsonb_typeof(s.config::jsonb #> '{terms,headers}') = 'object';
ALTER TABLE quantum.webhook_subscriptions FORCE ROW LEVEL SECURITY;

ALTER TABLE quantum.snapshots NO FORCE ROW LEVEL SECURITY;
DELETE FROM quantum.snapshots WHERE stream_id = 'subscriptions';
ALTER TABLE quantum.snapshots FORCE ROW LEVEL SECURITY;

-- What a subscription's deliveries were to carry in the clear: of its newest event that still holds values.
CREATE FUNCTION quantum.webhook_headers_of_event(tenant text, subscription text) RETURNS json
    LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RETURN (
        SELECT convert_from(e.payload, 'UTF8')::json #> '{terms,headers}'
          FROM quantum.events AS e
         WHERE e.tenant_id = tenant AND e.stream_id = 'subscriptions'
           AND e.topic IN ('subscription.created.v1', 'subscription.changed.v1')
           AND convert_from(e.payload, 'UTF8')::json ->> 'subscription_id' = subscription
         ORDER BY e.version DESC LIMIT 1
    );
END
$$;
REVOKE ALL ON FUNCTION quantum.webhook_headers_of_event FROM PUBLIC;
GRANT EXECUTE ON FUNCTION quantum.webhook_headers_of_event TO quantum_platform;
