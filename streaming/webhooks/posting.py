# intent_ref: streaming.webhooks-sending
"""Makes a delivery's request: the event as a CloudEvent, signed with the subscription's secrets."""

from collections.abc import Callable
from datetime import datetime
from typing import Final
from uuid import UUID

import orjson
import structlog

from domain.values import subscriptions_stream
from event_store.faults import DATABASE_FAULTS
from event_store.ids import uuid7
from event_store.records import Metadata, RecordedEvent, StoreUnavailable, metadata_bytes
from event_store.subscription_secrets import SubscriptionSecrets
from streaming.cloud_events import STRUCTURED_CONTENT_TYPE, structured
from streaming.transport import Message
from streaming.webhooks.deliveries import Attempt, Delivery
from streaming.webhooks.lane import Lane
from streaming.webhooks.ledger import Ledger
from streaming.webhooks.sending import Sender
from streaming.webhooks.signing import signed_headers

USER_AGENT: Final = "Quantum-Webhooks/1"
TEST_TOPIC: Final = "subscription.test.v1"
_KEYS_MAX: Final = 10_000
_AWAY: tuple[type[Exception], ...] = (*DATABASE_FAULTS, StoreUnavailable)

log = structlog.get_logger(__name__)


class Posting:
    """Prepares and sends. Keys of secrets and values of headers are kept in memory, never anywhere else."""

    def __init__(
        self, ledger: Ledger, secrets: SubscriptionSecrets, sender: Sender, clock: Callable[[], datetime], source: str
    ) -> None:  # fmt: skip
        self._ledger, self._secrets, self._sender, self._clock, self._source = ledger, secrets, sender, clock, source
        self._keys: dict[tuple[str, str], bytes] = {}
        self._headers: dict[tuple[str, str], dict[str, str]] = {}

    async def post(self, lane: Lane, delivery: Delivery) -> Attempt | None:
        """One attempt; None where the database was away before it could be made."""
        try:
            if delivery.event is None:
                delivery.event = await self._event(lane, delivery)
            keys = await self._keys_of(lane)
            own = await self._headers_of(lane)
        except _AWAY as fault:
            log.warning("a delivery cannot be prepared; trying again", fault=repr(fault))
            return None
        except Exception as fault:  # a key of the platform that is not the one this was sealed with
            log.error("a subscription's secret or headers cannot be opened", fault=repr(fault))
            return Attempt(self._clock(), 0.0, error="secret-unusable")
        if delivery.event is None or not keys or own is None:
            missing = "secret-missing" if not keys else "headers-missing" if own is None else "event-missing"
            return Attempt(self._clock(), 0.0, error=missing)
        body = structured(Message.of(delivery.event), self._source)
        headers = {
            **own, "Content-Type": STRUCTURED_CONTENT_TYPE, "User-Agent": USER_AGENT, "Accept": "*/*",
            "Accept-Encoding": "identity", **signed_headers(keys, str(delivery.delivery_id), self._clock(), body),
        }  # fmt: skip
        return await self._sender.send(lane.key, lane.config.terms.url, headers, body, unsaid=tuple(own.values()))

    async def _event(self, lane: Lane, delivery: Delivery) -> RecordedEvent | None:
        if not delivery.position:
            return trial_event(lane, delivery, self._clock())
        return await self._ledger.event(lane.tenant_id, delivery.position)

    async def _keys_of(self, lane: Lane) -> list[bytes]:
        config = lane.config
        wanted = [config.secret_id]
        if config.former_secret_id is not None and config.former_until is not None and config.former_until > self._clock():
            wanted.append(config.former_secret_id)
        missing = [one for one in wanted if (lane.tenant_id, one) not in self._keys]
        if missing:
            if len(self._keys) >= _KEYS_MAX:
                self._keys.clear()
                missing = list(wanted)
            for secret_id, opened in (await self._secrets.read(lane.tenant_id, missing)).items():
                self._keys[lane.tenant_id, secret_id] = opened
        return [key for one in wanted if (key := self._keys.get((lane.tenant_id, one))) is not None]

    async def _headers_of(self, lane: Lane) -> dict[str, str] | None:
        """The subscription's own headers; None where they are named and nowhere to be found."""
        terms = lane.config.terms
        if not terms.headers:
            return {}
        key = (lane.tenant_id, terms.headers_id or lane.config.subscription_id)
        found = self._headers.get(key)
        if found is not None and set(found) == set(terms.headers):
            return found
        if terms.headers_id is not None:
            found = await self._secrets.read_headers(lane.tenant_id, terms.headers_id)
        else:
            found = await self._ledger.headers_of_event(lane.tenant_id, lane.config.subscription_id)
        if found is None or set(found) != set(terms.headers):
            return None
        if len(self._headers) >= _KEYS_MAX:
            self._headers.clear()
        self._headers[key] = found
        return found


def new_test(delivery_id: UUID, request: int) -> Delivery:
    """A test delivery, asked for by request number `request`; its event is in no log."""
    return Delivery(
        delivery_id, uuid7(), 0, f"quantum.{TEST_TOPIC}", "subscriptions", out_of_turn=True, is_test=True, request=request
    )  # fmt: skip


def trial_event(lane: Lane, delivery: Delivery, at: datetime) -> RecordedEvent:
    """What a test delivers: an event like any other, of a type that nothing else has."""
    payload = orjson.dumps({"subscription_id": lane.config.subscription_id, "at": at}, option=orjson.OPT_UTC_Z)
    metadata = metadata_bytes(Metadata(str(delivery.delivery_id), None, "quantum:webhooks", None)).decode()
    return RecordedEvent(
        0, at, delivery.event_id, delivery.delivery_id, 1, lane.tenant_id, subscriptions_stream(), TEST_TOPIC, metadata, payload
    )  # fmt: skip
