-- intent_ref: streaming.webhooks
-- Which request of the API was which: the same idempotency key again asks for nothing more and gets the first answer. Commands have
-- their events for that; what is asked of the deliverer leaves none. Kept as long as the log of deliveries.
CREATE TABLE quantum.webhook_request_keys (
    tenant_id       text COLLATE "C" NOT NULL,
    command_id      uuid NOT NULL,                 -- follows from the key, who sent it, and where to
    subscription_id text COLLATE "C" NOT NULL,
    request_hash    text COLLATE "C" NOT NULL,     -- tells a repeat from another request under the same key
    delivery_id     uuid,                          -- what was answered
    asked_at        timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_id, command_id)
);
CREATE INDEX webhook_request_keys_of ON quantum.webhook_request_keys (tenant_id, subscription_id);
CREATE INDEX webhook_request_keys_by_age ON quantum.webhook_request_keys (asked_at);

ALTER TABLE quantum.webhook_request_keys ENABLE ROW LEVEL SECURITY;
ALTER TABLE quantum.webhook_request_keys FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant_rows ON quantum.webhook_request_keys TO quantum_app
    USING (tenant_id = (SELECT quantum.current_tenant())) WITH CHECK (tenant_id = (SELECT quantum.current_tenant()));
CREATE POLICY platform_rows ON quantum.webhook_request_keys TO quantum_platform USING (true) WITH CHECK (true);
GRANT SELECT, INSERT ON quantum.webhook_request_keys TO quantum_app;
GRANT SELECT, DELETE ON quantum.webhook_request_keys TO quantum_platform;

-- Puts a request down for the deliverer, once for each `command`; without a `hash` there is no key. `asked` is accepted; repeated,
-- with the delivery that was told the first time; reused, where the key belongs to another request; unknown, where there is no such
-- delivery; or busy, where too much waits. What was refused is not remembered: it may be asked for again.
CREATE FUNCTION quantum.ask_webhook(
    tenant text, subscription text, in_kind text, delivery uuid, after_position bigint, from_time timestamptz, at_most integer,
    command uuid, hash text
) RETURNS TABLE (asked text, told uuid)
    LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    known quantum.webhook_request_keys;
BEGIN
    PERFORM set_config('app.tenant_id', tenant, true);
    SELECT * INTO known FROM quantum.webhook_request_keys AS k WHERE k.tenant_id = tenant AND k.command_id = command;
    IF known.command_id IS NULL THEN
        IF in_kind = 'redeliver' AND NOT EXISTS (
            SELECT FROM quantum.webhook_deliveries AS d
             WHERE d.tenant_id = tenant AND d.subscription_id = subscription AND d.delivery_id = delivery
        ) THEN
            RETURN QUERY SELECT 'unknown', delivery;
            RETURN;
        END IF;
        IF (SELECT count(*) FROM quantum.webhook_requests AS r
             WHERE r.tenant_id = tenant AND r.subscription_id = subscription) >= at_most THEN
            RETURN QUERY SELECT 'busy', delivery;
            RETURN;
        END IF;
        IF hash IS NOT NULL THEN
            -- Of two at once the second waits here for the first, and then finds its row.
            INSERT INTO quantum.webhook_request_keys (tenant_id, command_id, subscription_id, request_hash, delivery_id)
            VALUES (tenant, command, subscription, hash, delivery) ON CONFLICT DO NOTHING;
        END IF;
        IF hash IS NULL OR FOUND THEN
            INSERT INTO quantum.webhook_requests (tenant_id, subscription_id, kind, delivery_id, position, since)
            VALUES (tenant, subscription, in_kind, delivery, after_position, from_time);
            RETURN QUERY SELECT 'accepted', delivery;
            RETURN;
        END IF;
        SELECT * INTO known FROM quantum.webhook_request_keys AS k WHERE k.tenant_id = tenant AND k.command_id = command;
    END IF;
    RETURN QUERY SELECT CASE WHEN known.request_hash = hash THEN 'repeated' ELSE 'reused' END, known.delivery_id;
END
$$;
REVOKE ALL ON FUNCTION quantum.ask_webhook FROM PUBLIC;
GRANT EXECUTE ON FUNCTION quantum.ask_webhook TO quantum_app;
DROP FUNCTION quantum.request_webhook;
