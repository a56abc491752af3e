# intent_ref: streaming.event-hubs-checkpoints
"""Checkpoints and ownership of an event hub's consumers in a blob container.

The SDK's store writes a checkpoint over whatever is there, so a consumer that lost its partition while it stood still would
move the checkpoint of its successor back. Here the epoch of the owner is written beside the place, and a checkpoint goes
only over the version of the blob that was looked at: of two that write, the later owner's stays, in whatever order they come.
"""

import contextlib
from collections.abc import Iterable
from typing import Any

import structlog
from azure.core import MatchConditions
from azure.core.exceptions import ResourceExistsError, ResourceModifiedError, ResourceNotFoundError
from azure.eventhub.aio import CheckpointStore
from azure.eventhub.extensions.checkpointstoreblobaio import BlobCheckpointStore
from azure.storage.blob.aio import ContainerClient

from streaming.event_hubs_ownership import epoch_of

_EPOCH = "epoch"
_TRIES_MAX = 8

log = structlog.get_logger(__name__)


class BlobCheckpoints(CheckpointStore):
    """A `CheckpointStore` over the SDK's, whose blobs it shares with other consumers of the SDK. Raises `AzureError`."""

    def __init__(self, store: CheckpointStore, container: ContainerClient) -> None:
        self._store, self._container = store, container
        self._known: dict[str, tuple[str | None, int]] = {}

    async def list_ownership(
        self, fully_qualified_namespace: str, eventhub_name: str, consumer_group: str, **kwargs: Any
    ) -> Iterable[dict[str, Any]]:
        """All ownerships of a group."""
        return await self._store.list_ownership(fully_qualified_namespace, eventhub_name, consumer_group, **kwargs)

    async def claim_ownership(self, ownership_list: Iterable[dict[str, Any]], **kwargs: Any) -> Iterable[dict[str, Any]]:
        """Those of the claims that succeeded, with their new etags."""
        return await self._store.claim_ownership(ownership_list, **kwargs)

    async def list_checkpoints(
        self, fully_qualified_namespace: str, eventhub_name: str, consumer_group: str, **kwargs: Any
    ) -> Iterable[dict[str, Any]]:
        """All checkpoints of a group."""
        return await self._store.list_checkpoints(fully_qualified_namespace, eventhub_name, consumer_group, **kwargs)

    async def update_checkpoint(self, checkpoint: dict[str, Any], **kwargs: Any) -> None:
        """Stores how far a partition was handled; not where its `owner_id` names an epoch below the one that is there.

        Without an `owner_id` it is stored as the SDK does it. Raises `ResourceModifiedError` where others write all the time.
        """
        owner = checkpoint.get("owner_id")
        if owner is None:
            await self._store.update_checkpoint(checkpoint, **kwargs)
            return
        epoch = epoch_of(owner)
        metadata = {
            "offset": str(checkpoint["offset"]), "sequencenumber": str(checkpoint["sequence_number"]), _EPOCH: str(epoch),
        }  # fmt: skip
        name = _blob_name(checkpoint)
        for attempt in range(1, _TRIES_MAX + 1):
            known = self._known.pop(name, None)
            etag, last_epoch = known if known is not None else await self._look(name)
            if last_epoch > epoch:
                log.warning("a checkpoint of a former owner was left out", partition=checkpoint["partition_id"], epoch=epoch)
                return
            try:
                self._known[name] = (await self._write(name, metadata, etag), epoch)
                return
            except (ResourceModifiedError, ResourceExistsError, ResourceNotFoundError):  # somebody was quicker: look again
                if attempt == _TRIES_MAX:
                    raise

    async def _look(self, name: str) -> tuple[str | None, int]:
        """(version of a checkpoint's blob, its owner's epoch); (None, -1) where there is none."""
        try:
            found = await self._container.get_blob_client(name).get_blob_properties()
        except ResourceNotFoundError:
            return None, -1
        said = (found.metadata or {}).get(_EPOCH, "")
        return str(found.etag), int(said) if said.isdigit() else 0

    async def _write(self, name: str, metadata: dict[str, str], etag: str | None) -> str:
        """Writes over the version `etag`, or the first; its own version. Raises where the blob is other than that."""
        blob = self._container.get_blob_client(name)
        if etag is None:
            made = await blob.upload_blob(b"", overwrite=False, metadata=metadata)
            return str(made["etag"])
        changed = await blob.set_blob_metadata(metadata, etag=etag, match_condition=MatchConditions.IfNotModified)
        return str(changed["etag"])

    async def __aenter__(self) -> "BlobCheckpoints":
        return self

    async def __aexit__(self, *fault: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Closes the connections."""
        closing: Any = self._store
        await closing.close()
        await self._container.close()


def _blob_name(checkpoint: dict[str, Any]) -> str:
    """Where the SDK's store keeps a checkpoint, which is also where it lists them from."""
    where = (checkpoint[key] for key in ("fully_qualified_namespace", "eventhub_name", "consumer_group"))
    return "/".join((*where, "checkpoint", str(checkpoint["partition_id"]))).lower()


async def blob_checkpoint_store(connection: str, container: str, credential: Any = None) -> BlobCheckpoints:
    """A store in a blob container, which is made where it is missing. To be closed by whoever asked for it.

    `connection` is a connection string, or the account's `https://` address, for which `credential` is an
    `AsyncTokenCredential`. Raises azure.core's `AzureError` where the account cannot be reached or refuses.
    """
    if connection.startswith(("https://", "http://")):
        client = ContainerClient(connection, container, credential=credential)
        store = BlobCheckpointStore(connection, container, credential=credential)
    else:
        client = ContainerClient.from_connection_string(connection, container)
        store = BlobCheckpointStore.from_connection_string(connection, container)
    checkpoints = BlobCheckpoints(store, client)
    try:
        with contextlib.suppress(ResourceExistsError):
            await client.create_container()
    except BaseException:
        await checkpoints.close()
        raise
    return checkpoints
