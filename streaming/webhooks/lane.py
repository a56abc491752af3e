# intent_ref: streaming.webhooks-lane
"""What one subscription has to deliver, in which order, and when. No I/O: the dispatcher reads, sends and stores.

Events come in log order (`offer`) and go out as `take` allows. With the order `per-subject`, an event goes out when every
earlier one of its subject is through; one that fails holds up its own subject and no other. What fails is *filed*: it gets a
row in the database and is tried again from there, and what comes after it of the same subject is filed behind it. So the
cursor goes on, and only so much is filed; then the whole subscription waits in the log, where there is room.

A receiver that fails for everything (`AWAY_AFTER` different deliveries in a row, no success between) is *away*: it gets one
request at a time with growing pauses, until one succeeds; then all that is filed is due at once.
"""

import heapq
import random
import re
from collections import deque
from collections.abc import Iterable
from datetime import datetime, timedelta
from functools import lru_cache
from typing import Final

from domain.subscription import Subscription
from domain.subscription_rules import wants_subject, wants_type
from event_store.records import RecordedEvent
from streaming.cloud_events import subject_of, type_of
from streaming.webhooks.deliveries import TRIES_MAX, Attempt, Delivery, retry_time
from streaming.webhooks.signing import webhook_id

OPEN_MAX: Final = 1_000
"""Deliveries of a subscription that may be filed, to be tried again or behind such a one."""
AWAY_AFTER: Final = 10
AWAY_SECONDS: Final = 5.0
AWAY_SECONDS_MAX: Final = 300.0
FAILING_DAYS_MAX: Final = 3
_FAILURES_MIN: Final = 3
_SLOW_SECONDS: Final = 1.0
_WINDOW_MIN: Final = 64


class Lane:
    """The deliveries of one subscription, for as long as this process has its lease."""

    def __init__(
        self, tenant_id: str, config: Subscription, *, cursor: int, generation: int = 0, shard: int = 0,
        chance: random.Random | None = None,
    ) -> None:  # fmt: skip
        self.tenant_id, self.generation, self.shard = tenant_id, generation, shard
        self.read_position = self.stored_cursor = cursor
        self.is_live = self.is_queued = self.is_behind_queued = self.is_held = self.is_given_up = self.is_dropped = False
        self.in_flight = 0
        self.alarm_at: datetime | None = None
        self.answer_seconds = 0.0
        self.last_success_at: datetime | None = None
        self.failing_since: datetime | None = None
        self._failures = 0
        self._failing: set[object] = set()
        self._away_tries = 0
        self._hold_until: datetime | None = None
        self._chance = chance or random.Random()  # noqa: S311 - spreads retries, no secret
        self._ready: deque[Delivery] = deque()
        self._tests: deque[Delivery] = deque()
        self._window: deque[Delivery] = deque()
        self._behind: dict[str, deque[Delivery]] = {}
        self._filed_heads: set[str] = set()
        self._retries: list[tuple[datetime, int, int, Delivery]] = []
        self._pushed = 0
        self._open: dict[object, Delivery] = {}
        self._wanted_types: dict[str, bool] = {}
        self.config = config

    @property
    def key(self) -> tuple[str, str]:
        """What there is one of."""
        return (self.tenant_id, self.config.subscription_id)

    @property
    def room(self) -> int:
        """How many more events it can take."""
        return max(0, min(max(_WINDOW_MIN, 4 * self.config.terms.max_in_flight) - len(self._window), OPEN_MAX - len(self._open)))

    @property
    def is_slow(self) -> bool:
        """True where answers take long, as a rule."""
        return self.answer_seconds > _SLOW_SECONDS

    @property
    def is_away(self) -> bool:
        """True where nothing gets through at present."""
        return len(self._failing) >= AWAY_AFTER

    @property
    def open_count(self) -> int:
        """How many deliveries are filed."""
        return len(self._open)

    def cursor(self, tail: int) -> int:
        """Every event up to here is delivered, filed or not wanted. `tail` is how far the log has been read for live lanes."""
        if self._window:
            return self._window[0].position - 1
        return max(self.read_position, tail) if self.is_live else self.read_position

    def change(self, config: Subscription, now: datetime, *, is_disabling: bool = False) -> list[Delivery]:
        """Takes a new configuration. What is filed begins anew when deliveries go on; these are to be stored.

        It may have been disabled and enabled between two looks: only `is_disabling` says that the former is still to come.
        """
        begins = config.status == "active" and (self.config.status != "active" or (self.is_given_up and not is_disabling))
        self.config = config
        self._wanted_types.clear()
        if not begins:
            return []
        self.is_given_up = False
        self._recovered()
        self.failing_since = None
        for delivery in self._open.values():
            delivery.tries, delivery.first_at = 0, None
        self._all_due(now)
        return list(self._open.values())

    def wants(self, event: RecordedEvent) -> bool:
        """Whether the subscription is about this event."""
        wanted = self._wanted_types.get(event.topic)
        if wanted is None:
            wanted = self._wanted_types[event.topic] = wants_type(self.config.terms, type_of(event.topic))
        if not wanted:
            return False
        return not self.config.terms.subjects or wants_subject(self.config.terms, _subject(event.stream_id))

    def offer(self, event: RecordedEvent) -> Delivery | None:
        """Takes an event that is wanted. A delivery that is returned has to wait behind a filed one: store it so."""
        self.read_position = event.position
        delivery_id = webhook_id(event.event_id, self.config.subscription_id)
        if delivery_id in self._open:
            return None
        subject = _subject(event.stream_id)
        delivery = Delivery(delivery_id, event.event_id, event.position, type_of(event.topic), subject, event)
        self._window.append(delivery)
        if self.config.terms.order == "parallel":
            self._ready.append(delivery)
            return None
        delivery.is_ordered = True
        behind = self._behind.get(subject)
        if behind is None:
            self._behind[subject] = deque()
            self._ready.append(delivery)
            return None
        behind.append(delivery)
        if subject not in self._filed_heads:
            return None
        self._filed(delivery, "waiting")
        self._close_window()
        return delivery

    def load(self, deliveries: Iterable[Delivery], now: datetime) -> None:
        """Takes up what is filed, in the order of positions, before anything is offered."""
        for delivery in deliveries:
            delivery.is_settled = True
            self._open[delivery.delivery_id] = delivery
            delivery.is_ordered = self.config.terms.order == "per-subject" and not delivery.out_of_turn
            if delivery.is_ordered and delivery.subject in self._behind:
                delivery.status = "waiting"
                self._behind[delivery.subject].append(delivery)
                continue
            if delivery.is_ordered:
                self._behind[delivery.subject] = deque()
                self._filed_heads.add(delivery.subject)
            delivery.status = "retrying"
            self._push(delivery, delivery.next_at or now)

    def test(self, delivery: Delivery) -> None:
        """Sends this one as soon as possible and once, whatever else is the matter."""
        self._tests.append(delivery)

    def again(self, delivery: Delivery, now: datetime) -> Delivery:
        """Delivers one again, out of turn; one that is filed anyhow is due now. Store what is returned."""
        known = self._open.get(delivery.delivery_id)
        if known is not None:
            known.request = delivery.request
            if known.status == "retrying":
                self._push(known, now)
            return known
        delivery.status, delivery.tries, delivery.first_at, delivery.out_of_turn = "retrying", 0, None, True
        delivery.is_settled = True
        self._open[delivery.delivery_id] = delivery
        self._push(delivery, now)
        return delivery

    def take(self, now: datetime) -> Delivery | None:
        """The next delivery to send, which then is in flight; None where nothing may be sent now."""
        if self._tests and self.in_flight <= self.config.terms.max_in_flight:
            self.in_flight += 1
            return self._tests.popleft()
        if not self._may_send(now):
            return None
        while self._retries and self._retries[0][0] <= now:
            due, _, _, delivery = heapq.heappop(self._retries)
            if delivery.status == "retrying" and delivery.next_at == due:
                delivery.next_at = None
                self._ready.appendleft(delivery)
        if not self._ready:
            return None
        self.in_flight += 1
        return self._ready.popleft()

    def put_back(self, delivery: Delivery) -> None:
        """A delivery that was taken and could not even be tried: it is next."""
        self.in_flight -= 1
        (self._tests if delivery.is_test else self._ready).appendleft(delivery)

    def _may_send(self, now: datetime) -> bool:
        return (
            not self.is_held and not self.is_given_up and not self.is_dropped and self.config.status == "active"
            and self.in_flight < (1 if self.is_away else self.config.terms.max_in_flight)
            and (self._hold_until is None or self._hold_until <= now)
        )  # fmt: skip

    def can_send(self, now: datetime) -> bool:
        """Whether `take` would give something."""
        if self._tests and self.in_flight <= self.config.terms.max_in_flight:
            return True
        return self._may_send(now) and (bool(self._ready) or bool(self._retries and self._retries[0][0] <= now))

    def next_time(self, now: datetime) -> datetime | None:
        """When something becomes due that is not due now; None where only an answer or an event can change that."""
        if not self._ready and not self._retries:
            return None
        at = now if self._ready else self._retries[0][0]
        if self._hold_until is not None:
            at = max(at, self._hold_until)
        return at if at > now else None

    def finished(self, delivery: Delivery, attempt: Attempt, now: datetime) -> tuple[list[Delivery], str | None]:
        """Takes what came of a delivery in flight: (what to store, why to disable the subscription if so)."""
        self.in_flight -= 1
        self.answer_seconds += (attempt.seconds - self.answer_seconds) * 0.2
        delivery.made.append(attempt)
        delivery.last_at = attempt.at
        delivery.first_at = delivery.first_at or attempt.at
        delivery.tries += 1
        if delivery.is_test:
            delivery.status = "delivered" if attempt.is_success else "failed"
            return [delivery], None
        outcome = self._succeeded(delivery, now) if attempt.is_success else self._failed(delivery, attempt, now)
        self._close_window()
        return outcome

    def _succeeded(self, delivery: Delivery, now: datetime) -> tuple[list[Delivery], str | None]:
        self.last_success_at = now
        self.failing_since = None
        was_away = self.is_away
        if self._failing:
            self._recovered()
        delivery.status, delivery.event = "delivered", None
        self._over(delivery, now)
        if was_away:
            self._all_due(now)
        return [delivery], None

    def _failed(self, delivery: Delivery, attempt: Attempt, now: datetime) -> tuple[list[Delivery], str | None]:
        self.failing_since = self.failing_since or attempt.at
        self._failures += 1
        if len(self._failing) < AWAY_AFTER:
            self._failing.add(delivery.delivery_id)
        if attempt.retry_after:
            self._hold(now + timedelta(seconds=attempt.retry_after))
        if self.is_away:
            pause = min(AWAY_SECONDS_MAX, AWAY_SECONDS * 2.0 ** min(self._away_tries, 16))
            self._away_tries += 1
            self._hold(now + timedelta(seconds=pause * self._chance.uniform(0.9, 1.1)))
        reason = self._reason_to_disable(delivery, attempt, now)
        if reason is None and delivery.tries >= TRIES_MAX:
            delivery.status, delivery.event, delivery.next_at = "failed", None, None
            self._over(delivery, now)
            return [delivery], None
        stored = self._file_with_followers(delivery)
        self._push(delivery, retry_time(delivery, attempt, now, self._chance))
        if reason is not None:
            self.is_given_up = True
        return stored, reason

    def _reason_to_disable(self, delivery: Delivery, attempt: Attempt, now: datetime) -> str | None:
        if attempt.is_gone:
            return "gone"
        assert self.failing_since is not None
        assert delivery.first_at is not None
        is_long = now - self.failing_since >= timedelta(days=FAILING_DAYS_MAX) and self._failures >= _FAILURES_MIN
        is_exhausted = delivery.tries >= TRIES_MAX and self.failing_since <= delivery.first_at and not delivery.out_of_turn
        return "failing" if is_long or is_exhausted else None

    def _file_with_followers(self, delivery: Delivery) -> list[Delivery]:
        stored = [self._filed(delivery, "retrying")]
        if delivery.is_ordered:
            self._filed_heads.add(delivery.subject)
            stored += [self._filed(one, "waiting") for one in self._behind[delivery.subject] if not one.is_open]
        return stored

    def _filed(self, delivery: Delivery, status: str) -> Delivery:
        delivery.status = "retrying" if status == "retrying" else "waiting"
        delivery.event, delivery.is_settled = None, True
        self._open[delivery.delivery_id] = delivery
        return delivery

    def _over(self, delivery: Delivery, now: datetime) -> None:
        """It is through, or given up: the next of its subject may go."""
        delivery.is_settled = True
        self._open.pop(delivery.delivery_id, None)
        if not delivery.is_ordered:
            return
        behind = self._behind[delivery.subject]
        self._filed_heads.discard(delivery.subject)
        if not behind:
            del self._behind[delivery.subject]
            return
        following = behind.popleft()
        if following.is_open:
            following.status = "retrying"
            self._filed_heads.add(delivery.subject)
            self._push(following, now)
        else:
            self._ready.append(following)

    def _close_window(self) -> None:
        while self._window and self._window[0].is_settled:
            self._window.popleft()

    def _recovered(self) -> None:
        self._failing.clear()
        self._failures = self._away_tries = 0
        self._hold_until = None

    def _all_due(self, now: datetime) -> None:
        for delivery in list(self._open.values()):
            if delivery.status == "retrying" and delivery.next_at is not None:
                self._push(delivery, now)

    def _hold(self, until: datetime) -> None:
        self._hold_until = max(self._hold_until or until, until)

    def _push(self, delivery: Delivery, at: datetime) -> None:
        delivery.next_at = at
        self._pushed += 1
        heapq.heappush(self._retries, (at, delivery.position, self._pushed, delivery))


_subject = lru_cache(8192)(subject_of)


def history_pattern(config: Subscription) -> str | None:
    """A POSIX regular expression that every wanted topic matches (and some others may); None for all."""
    if "*" in config.terms.types:
        return None
    patterns = (".*".join(map(re.escape, pattern.split("*"))) for pattern in config.terms.types)
    return rf"^({'|'.join(patterns)})(\.v[0-9]+)?$"
