# intent_ref: access.request-keys
"""What `Idempotency-Key` promises, for every POST: the same request again gets the first answer, another one is refused.

A command that stores an event needs nothing: its id is in the event, and the log gives the first answer again. Whatever else is
answered with success is kept here: what changed nothing, and what acts elsewhere than in the log. The latter is put down before
it is carried out, so that of two at the same moment one acts, and the other waits for its answer.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterator, Mapping
from typing import Any, Final
from uuid import UUID

from starlette.requests import Request
from starlette.responses import Response

from access.http.headers import IDEMPOTENCY_KEY, REPLAYED, CommandIdentity
from access.http.problems import Problem, unavailable
from domain.immutable import immutable
from event_store.ids import uuid7
from event_store.records import StoreUnavailable
from event_store.request_keys import KEPT_SECONDS, QUERY_SECONDS_MAX, KeptAnswer, KnownRequest, RequestKeys

SECONDS_MAX: Final = 30.0
"""How long a request under a key may take, unless its route says otherwise."""
WAIT_SECONDS_MAX: Final = 5.0
"""How long a request waits for the same one that is under way."""
WAITING_MAX: Final = 500
"""Requests of a process that wait so at a time."""
_LOOK_SECONDS: Final = (0.02, 0.5)
_AGAIN_SECONDS: Final = 2
_NOT_KEPT: Final = frozenset({"content-length", REPLAYED.lower()})

Act = Callable[[], Awaitable[Response]]
Identify = Callable[[], CommandIdentity]


class Recorded(Response):
    """An answer that the log gives again: an event tells of the command."""


class Leased(Response):
    """JSON that is worth something for so many seconds only, and is kept no longer."""

    def __init__(self, content: bytes, kept_seconds: float, headers: Mapping[str, str]) -> None:
        super().__init__(content, headers=headers, media_type="application/json")
        self.kept_seconds = min(kept_seconds, KEPT_SECONDS)


def never(body: bytes) -> bool:
    """No request of the route may change nothing."""
    return False


def always(body: bytes) -> bool:
    """Any request of the route may change nothing."""
    return True


@immutable
class KeptAnswers:
    """How a route stands to keys: its answers are kept. `seconds_max`: what it may take, beyond which it is stopped."""

    seconds_max: float = SECONDS_MAX


@immutable
class CommandsInLog:
    """How a route stands to keys: it gives one command to the shell. `may_change_nothing` says of a body whether that may store
    no event; only then something is looked up before the command is given.
    """

    may_change_nothing: Callable[[bytes], bool] = never


@immutable
class OwnKeys:
    """How a route stands to keys: it keeps the promise itself."""


KeyUse = KeptAnswers | CommandsInLog | OwnKeys
ANSWERS_KEPT: Final = KeptAnswers()
STORES_AN_EVENT: Final = CommandsInLog()
MAY_CHANGE_NOTHING: Final = CommandsInLog(always)


def has_key(request: Request) -> bool:
    """True for requests that came under a key, sound or not."""
    return IDEMPOTENCY_KEY in request.headers


class KeyedAnswers:
    """Answers requests that came under a key. One that finds the same under way waits up to `wait_seconds_max` for its answer."""

    def __init__(self, keys: RequestKeys, *, wait_seconds_max: float = WAIT_SECONDS_MAX) -> None:
        self._keys, self._wait_seconds_max = keys, wait_seconds_max
        self._waiting = 0

    async def answer(self, use: KeyUse, body: bytes, tenant_id: str, identify: Identify, act: Act) -> Response:
        """What `act` answers, or has answered before. Raises what it raises, `Problem` and `StoreUnavailable`."""
        match use:
            case KeptAnswers(seconds_max):
                return await self.once(tenant_id, identify(), act, seconds_max=seconds_max)
            case CommandsInLog(may_change_nothing):
                return await self._commanded(tenant_id, identify, act, looks_first=may_change_nothing(body))
            case OwnKeys():
                return await act()

    async def once(
        self, tenant_id: str, identity: CommandIdentity, act: Act, *, seconds_max: float = SECONDS_MAX
    ) -> Response:  # fmt: skip
        """Carries `act` out, unless the same request has come before: then the first answer, which is waited for.

        An answer that is no success frees the key. Whoever is killed keeps it for `seconds_max`, and a little longer.
        """
        return await self._once(tenant_id, identity, lambda holder: act(), seconds_max, KEPT_SECONDS)

    async def once_about(
        self, tenant_id: str, identity: CommandIdentity, find: Callable[[], Awaitable[Any]],
        act: Callable[[Any], Awaitable[Response]], *, seconds_max: float, kept_seconds: float,
    ) -> Response:  # fmt: skip
        """As `once`, for what `find` finds when the request first comes, however often it is then begun. That is JSON."""

        async def acted(holder: UUID) -> Response:
            found = await self._keys.note(tenant_id, identity.command_id, holder)
            if found is None:
                found = await self._keys.note(tenant_id, identity.command_id, holder, await find())
            if found is None:
                raise _under_way()  # by somebody else, after a standstill of this process
            return await act(found)

        return await self._once(tenant_id, identity, acted, seconds_max, kept_seconds)

    async def _once(
        self, tenant_id: str, identity: CommandIdentity, act: Callable[[UUID], Awaitable[Response]], seconds_max: float,
        kept_seconds: float,
    ) -> Response:  # fmt: skip
        holder = uuid7()
        known = await self._begun(tenant_id, identity, holder, seconds_max, kept_seconds)
        if known is not None:
            return replay(known)
        try:
            response = await _in_time(lambda: act(holder), seconds_max)
            if response.status_code >= 300:
                await self._give_up(tenant_id, identity, holder)
                return response
            kept_for = response.kept_seconds if isinstance(response, Leased) else kept_seconds
            await self._keys.end(tenant_id, identity.command_id, holder, kept(response), kept_for)
        except BaseException:
            await self._give_up(tenant_id, identity, holder)
            raise
        return response

    async def _commanded(self, tenant_id: str, identify: Identify, act: Act, *, looks_first: bool) -> Response:
        if looks_first:
            identity = identify()
            known = await self._keys.find(tenant_id, identity.command_id)
            if known is not None and _same(known, identity).answer is not None:
                return replay(known)
        response = await act()
        if isinstance(response, Recorded) or response.status_code >= 300:
            return response
        identity = identify()
        assert identity.request_hash is not None, "there is a key"
        known = await self._keys.tell(tenant_id, identity.command_id, identity.request_hash, uuid7(), kept(response))
        return response if known is None or _same(known, identity).answer is None else replay(known)

    async def _begun(
        self, tenant_id: str, identity: CommandIdentity, holder: UUID, seconds_max: float, kept_seconds: float
    ) -> KnownRequest | None:
        """None once the request is put down; else the one with its key, answered. Raises `Problem` where that takes too long."""
        assert identity.request_hash is not None, "there is a key"
        held_seconds = seconds_max + QUERY_SECONDS_MAX + 1.0
        pause, pause_max = _LOOK_SECONDS
        until = asyncio.get_running_loop().time() + self._wait_seconds_max
        with contextlib.ExitStack() as place:
            while True:
                known = await self._keys.begin(
                    tenant_id, identity.command_id, identity.request_hash, holder, held_seconds, kept_seconds
                )
                if known is None or _same(known, identity).answer is not None:
                    return known
                if pause == _LOOK_SECONDS[0]:
                    place.enter_context(self._place())
                if asyncio.get_running_loop().time() + pause > until:
                    raise _under_way()
                await asyncio.sleep(pause)
                pause = min(2 * pause, pause_max)

    @contextlib.contextmanager
    def _place(self) -> Iterator[None]:
        if self._waiting >= WAITING_MAX:
            raise _under_way()
        self._waiting += 1
        try:
            yield
        finally:
            self._waiting -= 1

    async def _give_up(self, tenant_id: str, identity: CommandIdentity, holder: UUID) -> None:
        with contextlib.suppress(StoreUnavailable):  # then the key is free once the holder's time is over
            await self._keys.give_up(tenant_id, identity.command_id, holder)


async def _in_time(act: Act, seconds_max: float) -> Response:
    try:
        async with asyncio.timeout(seconds_max) as limit:
            return await act()
    except TimeoutError as fault:
        if not limit.expired():
            raise
        sentence = f"The request took longer than {seconds_max:g} seconds, which is all it has under an idempotency key."
        raise unavailable("busy", sentence, retry_after_seconds=_AGAIN_SECONDS) from fault


def kept(response: Response) -> KeptAnswer:
    """What is kept of an answer."""
    headers = [(name, value) for name, value in response.headers.items() if name not in _NOT_KEPT]
    return KeptAnswer(response.status_code, headers, bytes(response.body))


def replay(known: KnownRequest) -> Response:
    """The first answer again. Raises `Problem` where it was too large to be kept."""
    answer = known.answer
    assert answer is not None, "the request is through"
    if answer.body is None:
        sentence = f"The request was carried out and answered with {answer.status}; its answer was too large to be kept."
        raise Problem("answer-not-kept", sentence)
    return Response(answer.body, answer.status, {**dict(answer.headers), REPLAYED: "true"})


def _same(known: KnownRequest, identity: CommandIdentity) -> KnownRequest:
    if known.request_hash != identity.request_hash:
        raise Problem(
            "idempotency-key-reused", "The idempotency key was used for another request: use a new key for a new request."
        )
    return known


def _under_way() -> Problem:
    sentence = "The same request under the same idempotency key is still being carried out. Send it again for its answer."
    return unavailable("busy", sentence, retry_after_seconds=_AGAIN_SECONDS)
