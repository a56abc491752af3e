# intent_ref: streaming.event-hubs-checkpoints
"""Where consumers of an event hub note who reads what and how far they have come: PostgreSQL.

It is a `CheckpointStore` of the SDK, and the default, because the database is there anyway; the other one is in
`streaming/event_hubs_blobs.py`. A checkpoint of who has lost the partition is refused.
"""

import time
from collections.abc import Iterable
from typing import Any

from azure.eventhub.aio import CheckpointStore

_LIST_OWNERSHIP = """
SELECT partition_id, owner_id, etag, extract(epoch FROM clock_timestamp() - modified_at)::float8 AS age_seconds
  FROM quantum.event_hubs_ownership
 WHERE namespace = $1 AND event_hub = $2 AND consumer_group = $3
"""
# Who names an etag changes that very version of the row; who names none makes the row. An UPDATE that waited for another one
# looks at the row again and finds its etag changed.
_CLAIM = """
WITH wanted AS (
    SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::bigint[])
               AS claim (namespace, event_hub, consumer_group, partition_id, owner_id, etag)
), changed AS (
    UPDATE quantum.event_hubs_ownership AS known
       SET owner_id = wanted.owner_id, etag = nextval('quantum.event_hubs_etags'), modified_at = clock_timestamp()
      FROM wanted
     WHERE known.namespace = wanted.namespace AND known.event_hub = wanted.event_hub
       AND known.consumer_group = wanted.consumer_group AND known.partition_id = wanted.partition_id AND known.etag = wanted.etag
    RETURNING known.*
), made AS (
    INSERT INTO quantum.event_hubs_ownership (namespace, event_hub, consumer_group, partition_id, owner_id)
    SELECT namespace, event_hub, consumer_group, partition_id, owner_id FROM wanted WHERE etag IS NULL
        ON CONFLICT DO NOTHING
    RETURNING *
)
SELECT * FROM changed UNION ALL SELECT * FROM made
"""
_LIST_CHECKPOINTS = """
SELECT partition_id, event_offset, sequence_number FROM quantum.event_hubs_checkpoints
 WHERE namespace = $1 AND event_hub = $2 AND consumer_group = $3
"""
# $7 is the owner under whom the checkpoint counts; NULL where the caller does without ownership.
_UPDATE_CHECKPOINT = """
INSERT INTO quantum.event_hubs_checkpoints AS known
       (namespace, event_hub, consumer_group, partition_id, event_offset, sequence_number)
SELECT $1, $2, $3, $4, $5, $6
 WHERE $7::text IS NULL OR EXISTS (
       SELECT FROM quantum.event_hubs_ownership AS held
        WHERE held.namespace = $1 AND held.event_hub = $2 AND held.consumer_group = $3 AND held.partition_id = $4
          AND held.owner_id = $7)
    ON CONFLICT (namespace, event_hub, consumer_group, partition_id) DO UPDATE
   SET event_offset = excluded.event_offset, sequence_number = excluded.sequence_number, modified_at = clock_timestamp()
"""
_KEYS = ("fully_qualified_namespace", "eventhub_name", "consumer_group", "partition_id")


class PostgresCheckpointStore(CheckpointStore):
    """The SDK's `CheckpointStore` in the platform's database. Raises what the database raises (`DATABASE_FAULTS`)."""

    def __init__(self, pool: Any) -> None:
        self._pool = pool

    async def list_ownership(
        self, fully_qualified_namespace: str, eventhub_name: str, consumer_group: str, **kwargs: Any
    ) -> Iterable[dict[str, Any]]:
        """All ownerships of a group. `last_modified_time` is told on this machine's clock, whatever the database's shows."""
        where = (fully_qualified_namespace, eventhub_name, consumer_group)
        rows = await self._pool.fetch(_LIST_OWNERSHIP, *where)
        now = time.time()
        return [
            dict(zip(_KEYS, (*where, row["partition_id"]), strict=True))
            | {"owner_id": row["owner_id"], "etag": str(row["etag"]), "last_modified_time": now - row["age_seconds"]}
            for row in rows
        ]

    async def claim_ownership(self, ownership_list: Iterable[dict[str, Any]], **kwargs: Any) -> Iterable[dict[str, Any]]:
        """Those of the claims that succeeded, with their new etags. Without an etag a claim succeeds where there was none."""
        # In one order, so that two members that claim the same do not wait for each other crosswise.
        claims = {tuple(claim[key] for key in _KEYS): claim for claim in ownership_list}
        ordered = [claims[key] for key in sorted(claims)]
        columns: list[list[Any]] = [[claim[key] for claim in ordered] for key in (*_KEYS, "owner_id")]
        etags = [int(claim["etag"]) if claim.get("etag") else None for claim in ordered]
        rows = await self._pool.fetch(_CLAIM, *columns, etags)
        now = time.time()
        claimed = []
        for row in rows:
            key = (row["namespace"], row["event_hub"], row["consumer_group"], row["partition_id"])
            claimed.append(claims[key] | {"etag": str(row["etag"]), "last_modified_time": now})
        return claimed

    async def update_checkpoint(self, checkpoint: dict[str, Any], **kwargs: Any) -> None:
        """Stores how far a partition was handled. With an `owner_id` in it, only as long as that owner has the partition."""
        await self._pool.execute(
            _UPDATE_CHECKPOINT, *(checkpoint[key] for key in _KEYS), str(checkpoint["offset"]),
            int(checkpoint["sequence_number"]), checkpoint.get("owner_id"),
        )  # fmt: skip

    async def list_checkpoints(
        self, fully_qualified_namespace: str, eventhub_name: str, consumer_group: str, **kwargs: Any
    ) -> Iterable[dict[str, Any]]:
        """All checkpoints of a group."""
        where = (fully_qualified_namespace, eventhub_name, consumer_group)
        rows = await self._pool.fetch(_LIST_CHECKPOINTS, *where)
        return [
            dict(zip(_KEYS, (*where, row["partition_id"]), strict=True))
            | {"offset": row["event_offset"], "sequence_number": row["sequence_number"]}
            for row in rows
        ]
