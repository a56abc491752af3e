-- intent_ref: streaming.event-hubs-checkpoints
-- Which process reads which partition of an event hub for which consumer group, and how far each has come: what the SDK's
-- `CheckpointStore` keeps. The rows are the platform's own: they name partitions and processes, and nothing of a tenant's.
--
-- A row of ownership changes hands only for who knows its present etag, so of several that claim it at once one gets it.
CREATE SEQUENCE quantum.event_hubs_etags;
GRANT USAGE ON SEQUENCE quantum.event_hubs_etags TO quantum_platform;

CREATE TABLE quantum.event_hubs_ownership (
    namespace      text COLLATE "C" NOT NULL,
    event_hub      text COLLATE "C" NOT NULL,
    consumer_group text COLLATE "C" NOT NULL,
    partition_id   text COLLATE "C" NOT NULL,
    owner_id       text COLLATE "C" NOT NULL,
    etag           bigint NOT NULL DEFAULT nextval('quantum.event_hubs_etags'),
    modified_at    timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (namespace, event_hub, consumer_group, partition_id)
) WITH (fillfactor = 50);

CREATE TABLE quantum.event_hubs_checkpoints (
    namespace       text COLLATE "C" NOT NULL,
    event_hub       text COLLATE "C" NOT NULL,
    consumer_group  text COLLATE "C" NOT NULL,
    partition_id    text COLLATE "C" NOT NULL,
    event_offset    text COLLATE "C" NOT NULL,   -- the service's, opaque
    sequence_number bigint NOT NULL,
    modified_at     timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (namespace, event_hub, consumer_group, partition_id)
) WITH (fillfactor = 50);

GRANT SELECT, INSERT, UPDATE, DELETE ON quantum.event_hubs_ownership, quantum.event_hubs_checkpoints TO quantum_platform;
