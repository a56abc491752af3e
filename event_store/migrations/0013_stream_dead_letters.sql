-- intent_ref: streaming.dead-letters
-- Messages that a consumer group passed over, because its handler refused each of them alone. What the message said is in the
-- log, at `position`, and is not copied; `reason` is the handler's error.
--
-- A row is left behind or waits (`redrive_requested_at`) or is done with (`redriven_at`). The row stays: it says what
-- happened. A message that fails again after a redrive is left behind once more, in the same row.
CREATE TABLE quantum.stream_dead_letters (
    tenant_id            text COLLATE "C" NOT NULL,
    consumer_group       text COLLATE "C" NOT NULL,
    position             bigint NOT NULL,
    event_id             uuid NOT NULL,
    partition_key        text COLLATE "C" NOT NULL,
    topic                text COLLATE "C" NOT NULL,
    reason               text NOT NULL,
    attempts             integer NOT NULL,
    first_failed_at      timestamptz NOT NULL,
    last_failed_at       timestamptz NOT NULL DEFAULT now(),
    redrive_requested_at timestamptz,
    redriven_at          timestamptz,
    PRIMARY KEY (tenant_id, consumer_group, position)
);
CREATE INDEX stream_dead_letters_left ON quantum.stream_dead_letters (consumer_group, position) WHERE redriven_at IS NULL;
-- What consumers ask for every few seconds: nearly always empty.
CREATE INDEX stream_dead_letters_to_redrive ON quantum.stream_dead_letters (consumer_group, position)
    WHERE redrive_requested_at IS NOT NULL AND redriven_at IS NULL;

ALTER TABLE quantum.stream_dead_letters ENABLE ROW LEVEL SECURITY;
ALTER TABLE quantum.stream_dead_letters FORCE ROW LEVEL SECURITY;
CREATE POLICY platform_rows ON quantum.stream_dead_letters TO quantum_platform USING (true) WITH CHECK (true);
GRANT SELECT, INSERT, UPDATE ON quantum.stream_dead_letters TO quantum_platform;
