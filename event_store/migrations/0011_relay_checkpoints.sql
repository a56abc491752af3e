-- intent_ref: streaming.relay
-- How far each relay has published the log to its transport. The platform's own: a position and nothing of a tenant's.
CREATE TABLE quantum.relay_checkpoints (
    relay        text COLLATE "C" PRIMARY KEY,
    position     bigint NOT NULL,
    published_at timestamptz NOT NULL DEFAULT now()
) WITH (fillfactor = 50);
GRANT SELECT, INSERT, UPDATE ON quantum.relay_checkpoints TO quantum_platform;
