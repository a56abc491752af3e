# intent_ref: access.problems
"""Every error the outside can see, as an RFC 9457 problem document: one table, one function that writes it."""

from collections.abc import Mapping, Sequence
from typing import Any, Final
from urllib.parse import quote

import orjson
from opentelemetry import trace
from starlette.requests import HTTPConnection
from starlette.responses import Response

from domain.immutable import immutable
from domain.refusals import Fault, Invalid, LimitReached, Refusal

MEDIA_TYPE: Final = "application/problem+json"
TYPE_PREFIX: Final = "/problems/"
FAULTS_SHOWN_MAX: Final = 1000
BEARER: Final = 'Bearer realm="quantum"'


@immutable
class Kind:
    """A row of the table: the status and the title that all problems of one code share."""

    status: int
    title: str


KINDS: Final[dict[str, Kind]] = {
    "not-json": Kind(400, "The body is not JSON"),
    "header-invalid": Kind(400, "A header cannot be understood"),
    "cursor-invalid": Kind(400, "Not a cursor of this list"),
    "position-invalid": Kind(400, "Not a position of this log"),
    "tenant-not-chosen": Kind(400, "The token covers several tenants"),
    "request-invalid": Kind(400, "The request cannot be understood"),
    "token-missing": Kind(401, "A token is needed"),
    "token-too-long": Kind(401, "The token is refused"),
    "token-malformed": Kind(401, "The token is refused"),
    "token-algorithm-refused": Kind(401, "The token is refused"),
    "token-key-unknown": Kind(401, "The token is refused"),
    "token-signature-invalid": Kind(401, "The token is refused"),
    "token-expired": Kind(401, "The token has expired"),
    "token-not-yet-valid": Kind(401, "The token is not valid yet"),
    "token-issuer-unknown": Kind(401, "The token is refused"),
    "token-audience-wrong": Kind(401, "The token is refused"),
    "token-claims-invalid": Kind(401, "The token is refused"),
    "callback-token-invalid": Kind(401, "The callback is refused"),
    "role-missing": Kind(403, "No role allows this"),
    "not-your-approval": Kind(403, "Others are asked to approve this"),
    "tenant-not-covered": Kind(403, "The token does not cover this tenant"),
    "tenant-unknown": Kind(403, "The tenant is not registered"),
    "tenant-suspended": Kind(403, "The tenant is suspended"),
    "not-found": Kind(404, "There is no such thing"),
    "route-unknown": Kind(404, "There is no such address"),
    "method-not-allowed": Kind(405, "The method does not apply here"),
    "request-too-slow": Kind(408, "The request did not arrive in time"),
    "refused": Kind(409, "The command is refused"),
    "tenant-exists": Kind(409, "The tenant is registered already"),
    "intent-name-taken": Kind(409, "The name is taken"),
    "intent-archived": Kind(409, "The intent is archived"),
    "too-many-versions": Kind(409, "The intent has all the versions it may have"),
    "too-many-reruns": Kind(409, "The execution was begun again as often as it may be"),
    "intent-has-no-schedule": Kind(409, "The intent has no schedule"),
    "module-name-taken": Kind(409, "The name is taken"),
    "action-taken": Kind(409, "The action has a module already"),
    "too-many-modules": Kind(409, "The tenant has all the modules it may have"),
    "too-many-intents": Kind(409, "The tenant has all the intents it may have"),
    "too-many-triggers": Kind(409, "The tenant has all the triggers it may have"),
    "too-many-schedules": Kind(409, "The tenant has all the schedules it may have"),
    "too-many-subscriptions": Kind(409, "The tenant has all the subscriptions it may have"),
    "subscription-disabled": Kind(409, "The subscription is disabled"),
    "too-many-requests": Kind(409, "Too much has been asked of the subscription already"),
    "execution-ended": Kind(409, "The execution has ended"),
    "execution-not-ended": Kind(409, "The execution has not ended"),
    "answer-not-kept": Kind(409, "The first answer was not kept"),
    "execution-exists": Kind(409, "An execution runs for this key already"),
    "execution-not-paused": Kind(409, "The execution is not paused"),
    "execution-not-failed": Kind(409, "The execution has not failed"),
    "step-not-waiting": Kind(409, "The step does not wait for this"),
    "step-not-awaiting-approval": Kind(409, "The step does not wait for an approval"),
    "too-many-custom-events": Kind(409, "The execution has emitted all the events it may emit"),
    "artifact-quota": Kind(409, "The tenant has stored all it may store"),
    "triggered-too-deep": Kind(409, "Too many executions have started one another"),
    "too-many-descendants": Kind(409, "The execution has started all the executions it may start"),
    "too-many-signals": Kind(409, "The execution holds all the signals it may hold"),
    "step-not-running": Kind(409, "The step is not running"),
    "callback-answered": Kind(409, "The attempt has another outcome already"),
    "lease-lost": Kind(409, "The lease is lost"),
    "callback-expired": Kind(410, "The callback comes too late"),
    "intent-version-stale": Kind(412, "The intent has moved on"),
    "subscription-version-stale": Kind(412, "The subscription has moved on"),
    "precondition-failed": Kind(412, "The intent has moved on"),
    "body-too-large": Kind(413, "The body is too large"),
    "event-too-large": Kind(422, "What is to be written down is too large"),
    "validation-failed": Kind(422, "The input breaks rules"),
    "definition-invalid": Kind(422, "The definition breaks rules"),
    "intent-not-executable": Kind(422, "The intent cannot be executed as it is"),
    "idempotency-key-reused": Kind(422, "The idempotency key belongs to another request"),
    "precondition-missing": Kind(428, "Say which version you have seen"),
    "head-too-large": Kind(431, "The address and headers are too large"),
    "limit-reached": Kind(429, "The tenant has reached a limit"),
    "internal-error": Kind(500, "Something went wrong on our side"),
    "not-caught-up": Kind(503, "The read side has not caught up yet"),
    "busy": Kind(503, "Too much at once"),
    "artifacts-unavailable": Kind(503, "The artifact store does not answer"),
    "store-unavailable": Kind(503, "The database does not answer"),
    "secrets-unavailable": Kind(503, "Secrets cannot be read now"),
    "keys-unavailable": Kind(503, "Tokens cannot be verified now"),
}


class Problem(Exception):
    """Ends a request with the problem document of `code`, which is a key of `KINDS`."""

    def __init__(
        self,
        code: str,
        detail: str,
        *,
        headers: Mapping[str, str] | None = None,
        faults: Sequence[Fault] = (),
    ) -> None:
        super().__init__(detail)
        self.code, self.detail = code, detail
        self.headers, self.faults = dict(headers or {}), tuple(faults)


def of_refusal(refusal: Refusal) -> Problem:
    """The problem that tells of a refused command."""
    code = refusal.code if refusal.code in KINDS else Refusal.code
    headers = _limit_headers(refusal) if isinstance(refusal, LimitReached) else None
    return Problem(code, str(refusal), headers=headers, faults=refusal.faults if isinstance(refusal, Invalid) else ())


def _limit_headers(reached: LimitReached) -> dict[str, str]:
    """`Retry-After`, and the limit as draft-ietf-httpapi-ratelimit-headers-10 has it: quota, window, remaining, seconds."""
    window = "" if reached.window_seconds is None else f";w={reached.window_seconds}"
    return {
        "Retry-After": str(reached.again_seconds),
        "RateLimit-Policy": f'"{reached.limit}";q={reached.most}{window}',
        "RateLimit": f'"{reached.limit}";r=0;t={reached.again_seconds}',
    }


def unavailable(code: str, detail: str, *, retry_after_seconds: int = 1) -> Problem:
    """A 503 with its `Retry-After`."""
    return Problem(code, detail, headers={"Retry-After": str(retry_after_seconds)})


def trace_id(request: HTTPConnection) -> str:
    """By which to find this request in traces and logs: the trace's id, else the request's correlation id."""
    context = trace.get_current_span().get_span_context()
    return format(context.trace_id, "032x") if context.is_valid else correlation_id(request)


def correlation_id(request: HTTPConnection) -> str:
    """The conversation this request belongs to, as `access.http.edge.Edge` found or made it."""
    found: str = request.scope.get("quantum.correlation_id", "")
    return found


def document(request: HTTPConnection, problem: Problem) -> dict[str, Any]:
    """The problem document."""
    kind = KINDS[problem.code]
    body: dict[str, Any] = {
        "type": TYPE_PREFIX + problem.code,
        "title": kind.title,
        "status": kind.status,
        "detail": problem.detail,
        "instance": _instance(request),
        "trace_id": trace_id(request),
        "code": problem.code,
    }
    if problem.faults:
        body["errors"] = [
            {"pointer": fault.pointer, "detail": fault.detail, "code": fault.code} for fault in problem.faults[:FAULTS_SHOWN_MAX]
        ]
    return body


def response(request: HTTPConnection, problem: Problem) -> Response:
    """The answer that carries the problem document."""
    kind = KINDS[problem.code]
    request.scope["quantum.problem"] = problem.code  # for the logs
    headers = dict(problem.headers)
    if kind.status == 401:
        error = "" if problem.code == "token-missing" else f', error="invalid_token", error_description="{problem.code}"'
        headers["WWW-Authenticate"] = BEARER + error
    return Response(orjson.dumps(document(request, problem)), kind.status, headers, MEDIA_TYPE)


def _instance(request: HTTPConnection) -> str:
    return quote(request.scope["path"], safe="/:@!$&'()*+,;=~-._")
