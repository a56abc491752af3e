-- intent_ref: streaming.webhooks
-- What the deliverer of webhooks keeps (docs/webhooks.md). All of it follows from the log, but for how far it has come.
--
-- `cursor`: every event up to there that a subscription wants has been delivered, or has a row among the deliveries.
-- `generation` grows when the cursor is set back, so that nobody who still works on the former one moves it on.
-- `config` is the subscription as its stream's `version` left it.
CREATE TABLE quantum.webhook_subscriptions (
    tenant_id       text COLLATE "C" NOT NULL,
    subscription_id text COLLATE "C" NOT NULL,
    shard           integer NOT NULL,
    version         integer NOT NULL,
    is_deleted      boolean NOT NULL DEFAULT false,
    config          json NOT NULL,
    cursor          bigint NOT NULL,
    generation      bigint NOT NULL DEFAULT 0,
    last_success_at timestamptz,
    failing_since   timestamptz,                   -- the first failure after it
    PRIMARY KEY (tenant_id, subscription_id)
) WITH (fillfactor = 50);
CREATE INDEX webhook_subscriptions_by_shard ON quantum.webhook_subscriptions (shard);

-- How far the log has been searched for what happened to subscriptions. One row.
CREATE TABLE quantum.webhook_progress (
    only_row boolean PRIMARY KEY DEFAULT true,
    position bigint NOT NULL
) WITH (fillfactor = 50);
INSERT INTO quantum.webhook_progress (position) VALUES (0);

-- One row a delivery, with its latest attempts. `number` puts them in the order in which they were begun.
-- status: delivered; failed (given up); retrying (due at next_at); waiting (behind an earlier event of its subject).
CREATE SEQUENCE quantum.webhook_delivery_number AS bigint;
CREATE TABLE quantum.webhook_deliveries (
    tenant_id       text COLLATE "C" NOT NULL,
    subscription_id text COLLATE "C" NOT NULL,
    delivery_id     uuid NOT NULL,
    number          bigint NOT NULL DEFAULT nextval('quantum.webhook_delivery_number'),
    event_id        uuid NOT NULL,
    position        bigint NOT NULL,               -- of the event in the log; 0 for a test, which is in none
    event_type      text COLLATE "C" NOT NULL,
    subject         text COLLATE "C" NOT NULL,
    status          text COLLATE "C" NOT NULL,
    out_of_turn     boolean NOT NULL DEFAULT false, -- asked for by somebody: holds nothing up, waits for nothing
    tries           integer NOT NULL DEFAULT 0,     -- since it was begun, or asked for again: what the back-off counts
    first_at        timestamptz,
    last_at         timestamptz NOT NULL,
    next_at         timestamptz,
    attempts        json NOT NULL,
    PRIMARY KEY (tenant_id, subscription_id, delivery_id)
) WITH (fillfactor = 90);
CREATE INDEX webhook_deliveries_newest ON quantum.webhook_deliveries (tenant_id, subscription_id, number);
CREATE INDEX webhook_deliveries_open ON quantum.webhook_deliveries (tenant_id, subscription_id, position)
    WHERE status IN ('retrying', 'waiting');
CREATE INDEX webhook_deliveries_failed ON quantum.webhook_deliveries (tenant_id, subscription_id, number)
    WHERE status = 'failed';
CREATE INDEX webhook_deliveries_by_age ON quantum.webhook_deliveries USING brin (last_at) WITH (pages_per_range = 32);

-- What the API asks of the deliverer. It goes when it is done.
CREATE SEQUENCE quantum.webhook_request_number AS bigint;
CREATE TABLE quantum.webhook_requests (
    tenant_id       text COLLATE "C" NOT NULL,
    subscription_id text COLLATE "C" NOT NULL,
    number          bigint NOT NULL DEFAULT nextval('quantum.webhook_request_number'),
    kind            text COLLATE "C" NOT NULL,     -- test, redeliver, rewind
    delivery_id     uuid,                          -- of a test or of the one to deliver again
    position        bigint,                        -- rewind: everything after this position once more
    since           timestamptz,                   -- rewind: or everything recorded from then on
    requested_at    timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_id, subscription_id, number)
);

DO $$
DECLARE
    name text;
BEGIN
    FOREACH name IN ARRAY ARRAY['webhook_subscriptions', 'webhook_deliveries', 'webhook_requests'] LOOP
        EXECUTE format('ALTER TABLE quantum.%I ENABLE ROW LEVEL SECURITY', name);
        EXECUTE format('ALTER TABLE quantum.%I FORCE ROW LEVEL SECURITY', name);
        EXECUTE format('CREATE POLICY platform_rows ON quantum.%I TO quantum_platform USING (true) WITH CHECK (true)', name);
        EXECUTE format('GRANT SELECT, INSERT, UPDATE, DELETE ON quantum.%I TO quantum_platform', name);
    END LOOP;
END
$$;
CREATE POLICY tenant_rows ON quantum.webhook_subscriptions FOR SELECT TO quantum_app
    USING (tenant_id = (SELECT quantum.current_tenant()));
CREATE POLICY tenant_rows ON quantum.webhook_deliveries FOR SELECT TO quantum_app
    USING (tenant_id = (SELECT quantum.current_tenant()));
CREATE POLICY tenant_rows ON quantum.webhook_requests TO quantum_app
    USING (tenant_id = (SELECT quantum.current_tenant())) WITH CHECK (tenant_id = (SELECT quantum.current_tenant()));
GRANT SELECT ON quantum.webhook_deliveries, quantum.webhook_subscriptions TO quantum_app;
GRANT SELECT, INSERT ON quantum.webhook_requests TO quantum_app;
GRANT SELECT, INSERT, UPDATE ON quantum.webhook_progress TO quantum_platform;
GRANT USAGE ON SEQUENCE quantum.webhook_delivery_number TO quantum_platform;
GRANT USAGE ON SEQUENCE quantum.webhook_request_number TO quantum_app, quantum_platform;
