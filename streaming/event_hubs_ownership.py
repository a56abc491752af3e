# intent_ref: streaming.event-hubs-ownership
"""Which partitions of an event hub this process reads, agreed with the others of its group through a `CheckpointStore`.

The SDK's own balancing takes partitions from the living and can keep moving them (azure-sdk-for-python issue 28338). Here, as on
the embedded stream, nothing is taken from a living member: whoever has more than its share lets go, after the batch in hand.
Members show that they live by claiming a numbered place again and again; the share follows from the rank among the places.

A member is dead when its place has not changed for a while *as seen from here*: no clock of another machine is believed (the
Kinesis Client Library judges its leases in the same way). Each change of owner raises the partition's epoch, which is kept in
the owner's name and which the service holds receivers to.
"""

import asyncio
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import structlog
from azure.eventhub.aio import CheckpointStore

HEARTBEAT_SECONDS = 1.0
ALIVE_SECONDS = 5.0
_MEMBERS = ".members"

log = structlog.get_logger(__name__)

Row = dict[str, Any]


class ClaimUnanswered(ConnectionError):
    """A claim came back as it was sent: so the blob store answers when it could not reach its account."""


class Where(NamedTuple):
    """What a store's rows are filed under."""

    namespace: str
    hub: str
    group: str


class Place(NamedTuple):
    """How far a partition has come: the service's opaque offset, and the sequence number, which one can compare."""

    offset: str
    sequence: int


@dataclass(eq=False, slots=True)
class Lease:
    """A partition of ours. `done`: the handler is done up to here; None is the beginning. `stored`: what the store knows."""

    number: str
    owner: str
    epoch: int
    etag: str
    done: Place | None = None
    stored: Place | None = None


class Ownership:
    """One member's part of a group. `changed` is set whenever what it holds or should hold is other than before."""

    def __init__(
        self, store: CheckpointStore, where: Where, partitions: Sequence[str], *,
        heartbeat_seconds: float = HEARTBEAT_SECONDS, alive_seconds: float = ALIVE_SECONDS,
    ) -> None:  # fmt: skip
        self._store, self._where, self.partitions = store, where, list(partitions)
        self._heartbeat_seconds, self._alive_seconds = heartbeat_seconds, alive_seconds
        self.member = secrets.token_hex(8)
        self.held: dict[str, Lease] = {}
        self.changed = asyncio.Event()
        self._share = len(self.partitions)
        self._seat: Row | None = None
        self._seen: dict[str, tuple[str, float]] = {}
        self._alive_until = 0.0
        self._beating = asyncio.Lock()

    @property
    def are_ours(self) -> bool:
        """False once our last heartbeat is so old that others may have taken the partitions."""
        return asyncio.get_running_loop().time() < self._alive_until

    @property
    def surplus(self) -> list[str]:
        """Partitions beyond our share, which another member waits for."""
        return [number for number in self.partitions if number in self.held][self._share :]

    async def keep(self) -> None:
        """Heartbeats for ever. Where the store is away, the leases run out and reading stops until it is back."""
        while True:
            await self.beat()
            await asyncio.sleep(self._heartbeat_seconds)

    async def beat(self) -> None:
        """One heartbeat: a sign of life, checkpoints out, partitions in."""
        async with self._beating:
            began, before = self._now(), dict(self.held)
            try:
                async with asyncio.timeout(self._alive_seconds * 0.75):
                    await self._beat()
                self._alive_until = began + self._alive_seconds * 0.75
            except Exception as fault:  # of any store: PostgreSQL's and Azure's have nothing in common
                log.warning("a consumer's heartbeat failed", group=self._where.group, fault=repr(fault))
            if before != self.held or self.surplus:
                self.changed.set()

    async def release(self, numbers: Sequence[str]) -> None:
        """Stores the checkpoints of partitions and lets them go; others take them at their next heartbeat."""
        async with self._beating:
            leases = [lease for number in numbers if (lease := self.held.pop(number, None)) is not None]
            try:
                async with asyncio.timeout(self._alive_seconds):
                    await self._store_checkpoints(leases)
                    await self._store.claim_ownership(
                        [self._row(lease.number, f"#{lease.epoch}", lease.etag) for lease in leases]
                    )
            except Exception as fault:
                log.warning("partitions were not released; they move when the lease runs out", fault=repr(fault))

    async def leave(self) -> None:
        """Lets everything go, and the place among the members."""
        await self.release(list(self.held))
        async with self._beating:
            seat, self._seat, self._alive_until = self._seat, None, 0.0
            try:
                async with asyncio.timeout(self._alive_seconds):
                    if seat is not None:
                        await self._store.claim_ownership([{**seat, "owner_id": ""}])
            except Exception as fault:
                log.warning("a consumer's place was not given up; it runs out", fault=repr(fault))

    async def _beat(self) -> None:
        seats = await self._take_a_seat()
        if self._seat is None:
            self.held = {}
            return
        living = [row["owner_id"] for row in seats]
        rank, share_of_each = living.index(self.member), divmod(len(self.partitions), len(living))
        self._share = share_of_each[0] + (1 if rank < share_of_each[1] else 0)
        rows = {row["partition_id"]: row for row in await self._store.list_ownership(*self._where)}
        self.held = {
            number: lease for number, lease in self.held.items()
            if number in rows and rows[number]["owner_id"] == lease.owner
        }  # fmt: skip
        await self._store_checkpoints(list(self.held.values()))
        # Ours in the store and not in our hands: what we did not hear the answer to. It is claimed or let go once more.
        strays = [number for number, row in rows.items() if _owner(row) == self.member and number not in self.held]
        free = [number for number in self.partitions if number in strays or _owner(rows.get(number)) not in living]
        # Each begins elsewhere, so that two that come at once do not want the same.
        at = rank * len(free) // len(living)
        await self._claim((free[at:] + free[:at])[: max(0, self._share - len(self.held))], rows)
        if left := [number for number in strays if number not in self.held]:
            await self._store.claim_ownership([self._row(n, f"#{_epoch(rows[n])}", rows[n]["etag"]) for n in left])

    async def _take_a_seat(self) -> list[Row]:
        """Claims our place again, or a free one; the places of the living, in order. More members than places stand by."""
        group = self._where.group + _MEMBERS
        rows = {row["partition_id"]: row for row in await self._store.list_ownership(*self._where[:2], group)}
        living = {number: row for number, row in rows.items() if row["owner_id"] and self._is_fresh(row)}
        ours = next((row for row in rows.values() if row["owner_id"] == self.member), None)
        wanted: Row | None = None
        if ours is not None:
            wanted = ours
        elif free := [number for number in self.partitions if number not in living]:
            wanted = self._row(free[0], self.member, rows.get(free[0], {}).get("etag"), group)
        claimed = await self._claimed([wanted]) if wanted is not None else []
        self._seat = claimed[0] if claimed else None
        if self._seat is not None:
            living[self._seat["partition_id"]] = self._seat
        return [living[number] for number in self.partitions if number in living]

    def _is_fresh(self, row: Row) -> bool:
        """Whether a place has changed within the time of a life, as seen from here."""
        number, etag, now = row["partition_id"], row["etag"], self._now()
        known = self._seen.get(number)
        if known is None or known[0] != etag:
            self._seen[number] = known = (etag, now)
        return now - known[1] < self._alive_seconds

    async def _claimed(self, wanted: list[Row]) -> list[Row]:
        """The rows that are ours now, without those for which somebody was quicker; raises `ClaimUnanswered`."""
        tags = {row["partition_id"]: _tag(row) for row in wanted}
        claimed = [dict(row) for row in await self._store.claim_ownership(wanted)]
        if any(_tag(row) == tags[row["partition_id"]] for row in claimed):
            raise ClaimUnanswered(str(ClaimUnanswered.__doc__))
        if any(tag is None for tag in tags.values()) and claimed:
            # Of several that make the same blob at once more than one may be told that it did: who is written there has it.
            listed = await self._store.list_ownership(*self._where[:2], wanted[0]["consumer_group"])
            owners = {row["partition_id"]: row["owner_id"] for row in listed}
            claimed = [row for row in claimed if owners.get(row["partition_id"]) == row["owner_id"]]
        return claimed

    async def _claim(self, numbers: list[str], rows: dict[str, Row]) -> None:
        if not numbers:
            return
        wanted = {}
        for number in numbers:
            known = rows.get(number)
            wanted[number] = self._row(number, f"{self.member}#{_epoch(known) + 1}", known["etag"] if known else None)
        won = await self._claimed(list(wanted.values()))
        checkpoints = {row["partition_id"]: row for row in await self._store.list_checkpoints(*self._where)} if won else {}
        for row in won:
            number = row["partition_id"]
            lease = Lease(number, row["owner_id"], _epoch(row), row["etag"])
            if (checkpoint := checkpoints.get(number)) is not None:
                lease.done = lease.stored = Place(str(checkpoint["offset"]), int(checkpoint["sequence_number"]))
            self.held[number] = lease

    async def _store_checkpoints(self, leases: list[Lease]) -> None:
        for lease in leases:
            done = lease.done
            if done is not None and done != lease.stored:
                row = self._row(lease.number, lease.owner, None)
                await self._store.update_checkpoint(row | {"offset": done.offset, "sequence_number": done.sequence})
                lease.stored = done

    def _row(self, number: str, owner: str, etag: str | None, group: str | None = None) -> Row:
        row: Row = {
            "fully_qualified_namespace": self._where.namespace, "eventhub_name": self._where.hub,
            "consumer_group": group or self._where.group, "partition_id": number, "owner_id": owner,
        }  # fmt: skip
        return row if etag is None else row | {"etag": etag}

    def _now(self) -> float:
        return asyncio.get_running_loop().time()


def _owner(row: Row | None) -> str | None:
    return None if row is None else str(row["owner_id"] or "").partition("#")[0]


def _tag(row: Row) -> str | None:
    """The etag, which the blob store tells with quotation marks or without."""
    tag = row.get("etag")
    return None if tag is None else str(tag).strip('"')


def epoch_of(owner: str) -> int:
    """The epoch in an owner's name. Where another consumer of the SDK is the owner there is none: 0."""
    number = owner.partition("#")[2]
    return int(number) if number.isdigit() else 0


def _epoch(row: Row | None) -> int:
    return 0 if row is None else epoch_of(str(row["owner_id"] or ""))
