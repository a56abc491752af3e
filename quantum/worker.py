# intent_ref: quantum.worker
"""A worker in Python: functions that carry out a module's actions, wherever it runs.

    worker = Worker("https://quantum.example.com", token, concurrency=4)

    @worker.action("resize-image")
    async def resize(task: Task) -> dict[str, object]:
        ...

    worker.main()

It fetches work, keeps its leases alive, and answers for it until the platform has taken the answer. The platform may hand the
same attempt out twice (a worker can die after its effects and before its answer); then `task.idempotency_key` is the same.
"""

import asyncio
import functools
import inspect
import logging
import random
import signal
import threading
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from typing import Any, Final, TypeVar

import httpx

from quantum.client import QuantumError

Function = Callable[["Task"], Any]
F = TypeVar("F", bound=Function)
Token = str | Callable[[], str | Awaitable[str]]
"""A bearer token, or what gives one: asked again when the platform does not take the last one any more."""

WAIT_SECONDS: Final = 20
UNITS_MAX: Final = 100
_REQUEST_SECONDS: Final = 30.0
_PAUSE_SECONDS_MIN, _PAUSE_SECONDS_MAX = 0.1, 5.0
_BEATS_A_LEASE: Final = 3
_ANSWER_SECONDS_MAX: Final = 600.0
_INTERRUPT_SECONDS_MAX: Final = 5.0
_MESSAGE_CHARS_MAX: Final = 2_000
_TRY_AGAIN: Final = frozenset({408, 429, 500, 502, 503, 504})

log = logging.getLogger(__name__)


class TaskFailed(Exception):
    """Raised by a function: the work could not be done. `retryable` where another attempt could help."""

    def __init__(self, code: str, message: str, *, retryable: bool = True, details: dict[str, Any] | None = None) -> None:
        super().__init__(message)
        self.code, self.message, self.retryable, self.details = code, message, retryable, details


class Cancellation:
    """Set when the platform does not want the work any more. Can be asked in threads, and waited for."""

    def __init__(self) -> None:
        self._set, self._waited = threading.Event(), asyncio.Event()

    def is_set(self) -> bool:
        """True when it has come."""
        return self._set.is_set()

    async def wait(self) -> None:
        """Returns when it comes; for async functions."""
        await self._waited.wait()

    def wait_in_thread(self, seconds: float) -> bool:
        """Whether it came within `seconds`; for functions that run in a thread."""
        return self._set.wait(seconds)

    def _come(self) -> None:
        self._set.set()
        self._waited.set()


class Task:
    """One attempt of one step, and what the platform says about it."""

    def __init__(self, unit: dict[str, Any], worker: "Worker") -> None:
        self._worker = worker
        self._lease_token: str = unit["lease_token"]
        self._lease_seconds: float = unit["lease_seconds"]
        self._timeout_seconds: float = unit["timeout_seconds"]
        self.execution_id: str = unit["execution_id"]
        self.step: str = unit["step"]
        self.action: str = unit["action"]
        self.attempt: int = unit["attempt"]
        self.parameters: dict[str, Any] = unit["parameters"]
        self.inputs: dict[str, Any] = unit["inputs"]
        self.target: str = unit["target"]
        self.idempotency_key: str = unit["idempotency_key"]
        self.deadline: datetime = datetime.fromisoformat(unit["deadline"])
        self.traceparent: str | None = unit["traceparent"]
        self.cancelled = Cancellation()
        self.is_lost = False
        """True when somebody else has the work, or nobody wants it: an async function is cancelled then."""

    def __repr__(self) -> str:
        return f"{self.step} of {self.execution_id}, attempt {self.attempt}"

    async def heartbeat(self) -> bool:
        """Extends the lease now; the worker does it by itself all the time. False when the work is not wanted, or not ours."""
        answer = await self._worker._post(f"{self._lease_token}/heartbeat", None, self.traceparent)
        if answer.status_code in (404, 409):
            self.is_lost = True
            self.cancelled._come()
        elif answer.is_success:
            document = answer.json()
            if document["cancelled"]:
                self.cancelled._come()
            self._lease_seconds = document["lease_seconds"] or self._lease_seconds
        return not self.cancelled.is_set()


class Worker:
    """Fetches work for its functions, up to `concurrency` units at a time. `tenant_id` where the token covers several.

    Async functions run on the event loop, others in threads. A function that is done with its `Task` returns a JSON value, or
    raises `TaskFailed`; anything else it raises is a failure with the code `worker-crashed`.
    """

    def __init__(
        self, base_url: str, token: Token, *, concurrency: int = 10, tenant_id: str | None = None, grace_seconds: float = 20.0,
        **httpx_options: Any,
    ) -> None:  # fmt: skip
        assert concurrency >= 1, "a worker does at least one thing at a time"
        self._base_url, self._token, self._tenant_id = base_url.rstrip("/"), token, tenant_id
        self._concurrency, self._grace_seconds, self._options = concurrency, grace_seconds, httpx_options
        self._functions: dict[str, Function] = {}
        self._running: dict[asyncio.Task[None], Task] = {}
        self._stop = asyncio.Event()
        self._bearer: str | None = None
        self._http: httpx.AsyncClient | None = None
        self._threads: ThreadPoolExecutor | None = None

    @property
    def running(self) -> int:
        """Units under way."""
        return len(self._running)

    def action(self, name: str) -> Callable[[F], F]:
        """Lets a function carry out the action of that name."""

        if name in self._functions:
            raise ValueError(f"The action {name!r} has a function already.")

        def register(function: F) -> F:
            self._functions[name] = function
            return function

        return register

    def stop(self) -> None:
        """Lets `run` come to its end: no more is fetched, what runs gets `grace_seconds`, and what is left is given back."""
        self._stop.set()

    def main(self) -> None:
        """Runs until SIGINT or SIGTERM."""

        async def until_signal() -> None:
            for number in (signal.SIGINT, signal.SIGTERM):
                asyncio.get_running_loop().add_signal_handler(number, self.stop)
            await self.run()

        asyncio.run(until_signal())

    async def run(self) -> None:
        """Works until `stop`. Survives the platform's restarts; raises `QuantumError` where the platform refuses the worker."""
        assert self._functions, "a worker without a function has nothing to do"
        timeout = httpx.Timeout(_REQUEST_SECONDS, read=WAIT_SECONDS + _REQUEST_SECONDS)
        limits = httpx.Limits(max_connections=self._concurrency + 10)
        self._threads = ThreadPoolExecutor(self._concurrency, thread_name_prefix="quantum-worker")
        try:
            async with httpx.AsyncClient(
                base_url=f"{self._base_url}/api/v1/work/", **{"timeout": timeout, "limits": limits, **self._options}
            ) as self._http:
                try:
                    await self._fetch_and_start()
                finally:
                    await self._wind_up()
        finally:
            self._threads.shutdown(wait=False, cancel_futures=True)

    async def _fetch_and_start(self) -> None:
        failures = 0
        while not self._stop.is_set():
            free = self._concurrency - len(self._running)
            if not free:
                await _first(_REQUEST_SECONDS, *self._running, stop=self._stop)
                continue
            try:
                units = await self._poll(min(free, UNITS_MAX))
                failures = 0
            except (httpx.TransportError, _Busy) as fault:
                failures += 1
                pause = min(_PAUSE_SECONDS_MAX, _PAUSE_SECONDS_MIN * 2 ** min(failures, 10))
                if failures == 5:
                    log.warning("The platform cannot be asked for work: %r. Trying again.", fault)
                await _first(random.uniform(pause / 2, pause), stop=self._stop)  # noqa: S311 - spreads reconnects, no secret
                continue
            for unit in units:
                task = Task(unit, self)
                running = asyncio.create_task(self._carry_out(task), name=f"work-{task.step}")
                self._running[running] = task
                running.add_done_callback(self._done)

    def _done(self, running: "asyncio.Task[None]") -> None:
        self._running.pop(running, None)
        if not running.cancelled() and (fault := running.exception()) is not None:
            log.error("An answer could not be given.", exc_info=fault)

    async def _poll(self, count: int) -> list[dict[str, Any]]:
        """Units; none after a while, or when the worker stops in between."""
        body = {"actions": sorted(self._functions), "max": count, "wait": WAIT_SECONDS}
        asking = asyncio.ensure_future(self._post("poll", body, None))
        try:
            await _first(WAIT_SECONDS + 2 * _REQUEST_SECONDS, asking, stop=self._stop)
            if not asking.done():
                return []  # whoever leaves while waiting has leased nothing
            answer = asking.result()
        finally:
            asking.cancel()
        if answer.is_error:
            refusal = QuantumError(answer)
            if answer.status_code in _TRY_AGAIN or refusal.problem.get("code") == "tenant-suspended":
                raise _Busy(str(refusal)) from refusal
            raise refusal
        units: list[dict[str, Any]] = answer.json()["items"]
        return units

    async def _carry_out(self, task: Task) -> None:
        """From the function to an answer that the platform has taken, or a lease that is lost."""
        working = asyncio.create_task(self._call(task))
        beating = asyncio.create_task(self._beat(task, working))
        try:
            await asyncio.wait((working,), timeout=task._timeout_seconds)
            if not working.done():
                await self._interrupt(task, working)
            if task.is_lost:
                log.warning("The lease on %s is lost: somebody else has the work.", task)
            elif not working.done() or working.cancelled():
                await self._answer(task, "fail", _failure("timeout", "The function did not come to its end.", retryable=True))
            else:
                await self._answer(task, *_answer_of(working))
        except asyncio.CancelledError:  # the worker stops, and its grace is over
            await self._interrupt(task, working)
            await self._give_back(task)
            raise
        finally:
            beating.cancel()
            await asyncio.gather(beating, return_exceptions=True)
            working.add_done_callback(lambda done: done.cancelled() or done.exception())  # nobody waits for it any more

    async def _interrupt(self, task: Task, working: "asyncio.Task[Any]") -> None:
        """Cancels an async function and waits until it is out. One in a thread can only be asked to stop."""
        task.cancelled._come()
        working.cancel()
        await asyncio.wait((working,), timeout=_INTERRUPT_SECONDS_MAX)

    async def _call(self, task: Task) -> Any:
        function = self._functions[task.action]
        if inspect.iscoroutinefunction(function):
            return await function(task)
        result = await asyncio.get_running_loop().run_in_executor(self._threads, functools.partial(function, task))
        return await result if inspect.isawaitable(result) else result

    async def _beat(self, task: Task, working: "asyncio.Task[Any]") -> None:
        """Keeps the lease; a function whose lease is lost is cancelled."""
        while True:
            await asyncio.sleep(task._lease_seconds / _BEATS_A_LEASE)
            try:
                await task.heartbeat()
            except httpx.TransportError:
                continue  # the platform may be back before the lease is over; if not, the answer will tell
            if task.is_lost:
                working.cancel()
                return

    async def _answer(self, task: Task, path: str, body: dict[str, Any]) -> None:
        """Repeats an answer until the platform has taken it or refuses it: twice is as good as once."""
        loop = asyncio.get_running_loop()
        until, pause, is_plain = loop.time() + _ANSWER_SECONDS_MAX, _PAUSE_SECONDS_MIN, False
        while True:
            try:
                answer = await self._post(f"{task._lease_token}/{path}", body, task.traceparent)
            except httpx.TransportError as fault:
                answer, why = None, repr(fault)
            except (TypeError, ValueError, RecursionError) as fault:
                what, is_plain = ("result" if path == "complete" else "error"), True
                path, body = "fail", _failure(f"{what}-invalid", f"What the function gave is not JSON: {fault}")
                continue
            if answer is not None:
                why = f"{answer.status_code}: {answer.text[:500]}"
                if answer.is_success:
                    return
                if answer.status_code in (400, 413, 422) and not is_plain:
                    what, is_plain = ("result" if path == "complete" else "error"), True
                    code = f"{what}-too-large" if answer.status_code == 413 else f"{what}-invalid"
                    path, body = "fail", _failure(code, str(QuantumError(answer)))
                    continue
                if answer.status_code not in _TRY_AGAIN:
                    log.warning("The answer for %s was refused: %s", task, why)
                    return
            if loop.time() > until:
                log.error("The answer for %s could not be given: %s", task, why)
                return
            await asyncio.sleep(random.uniform(pause / 2, pause))  # noqa: S311
            pause = min(pause * 2, _PAUSE_SECONDS_MAX)

    async def _give_back(self, task: Task) -> None:
        try:
            await self._post(f"{task._lease_token}/release", None, task.traceparent)
        except httpx.TransportError as fault:
            log.warning("%s could not be given back: %r. It is handed on when its lease ends.", task, fault)

    async def _post(self, path: str, body: Any, traceparent: str | None) -> httpx.Response:
        assert self._http is not None, "the worker runs"
        for is_last in (False, True):
            headers = {"Authorization": f"Bearer {await self._token_now(is_fresh=is_last)}"}
            if self._tenant_id is not None:
                headers["X-Tenant-Id"] = self._tenant_id
            if traceparent is not None:
                headers["traceparent"] = traceparent
            said = {} if body is None else {"json": body}
            answer = await self._http.post(path, headers=headers, **said)
            if answer.status_code != 401 or isinstance(self._token, str):
                break
        return answer

    async def _token_now(self, *, is_fresh: bool) -> str:
        if isinstance(self._token, str):
            return self._token
        if self._bearer is None or is_fresh:
            given = self._token()
            self._bearer = given if isinstance(given, str) else await given
        return self._bearer

    async def _wind_up(self) -> None:
        """Waits for what runs, as long as the grace is, and gives back what does not come to its end."""
        if self._running:
            await asyncio.wait(list(self._running), timeout=self._grace_seconds)
        left = list(self._running)
        for running in left:
            running.cancel()
        if left:
            await asyncio.wait(left, timeout=_REQUEST_SECONDS)


class _Busy(Exception):
    """The platform is there and cannot answer now."""


def _answer_of(working: "asyncio.Task[Any]") -> tuple[str, dict[str, Any]]:
    """What the platform is told of a function that has come to its end."""
    fault = working.exception()
    if fault is None:
        return "complete", {"result": working.result()}
    if isinstance(fault, TaskFailed):
        return "fail", _failure(fault.code, fault.message, retryable=fault.retryable, details=fault.details)
    log.error("A function crashed.", exc_info=fault)
    return "fail", _failure("worker-crashed", f"{type(fault).__name__}: {fault}", retryable=True)


def _failure(
    code: str, message: str, *, retryable: bool = False, details: dict[str, Any] | None = None
) -> dict[str, Any]:  # fmt: skip
    code = code[:100] or "failed"
    error = {"code": code, "message": message[:_MESSAGE_CHARS_MAX] or code, "details": details}
    return {"error": error, "retryable": retryable}


async def _first(seconds: float, *others: "asyncio.Future[Any]", stop: asyncio.Event) -> None:
    """Waits until one of them is done, or for `seconds`."""
    stopping = asyncio.ensure_future(stop.wait())
    waited: Sequence[asyncio.Future[Any]] = (stopping, *others)
    try:
        await asyncio.wait(waited, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    finally:
        stopping.cancel()
