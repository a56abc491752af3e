# intent_ref: access.problems
"""Which exception becomes which problem. Nothing else in the platform turns an exception into an answer."""

from typing import Any

import structlog
from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Match

from access.http.problems import Problem, of_refusal, response, unavailable
from access.keys import KeysUnavailable
from access.tokens import TokenRefused
from domain.refusals import Fault, Refusal
from event_store.records import AppendTooLarge, ArtifactsUnavailable, StoreUnavailable, StreamBusy
from event_store.tokens import InvalidToken

log = structlog.get_logger(__name__)


def problem_of(fault: BaseException) -> Problem:
    """The problem that tells of `fault`; what nobody foresaw is `internal-error`, without a word on how."""
    match fault:
        case Problem():
            return fault
        case Refusal():
            return of_refusal(fault)
        case TokenRefused():
            return Problem(fault.code, str(fault))
        case ArtifactsUnavailable():
            return unavailable("artifacts-unavailable", "The artifact store does not answer. Try again.", retry_after_seconds=5)
        case StoreUnavailable():
            return unavailable("store-unavailable", str(StoreUnavailable.__doc__))
        case StreamBusy():
            return unavailable("busy", str(StreamBusy.__doc__))
        case KeysUnavailable():
            return unavailable("keys-unavailable", str(fault), retry_after_seconds=5)
        case InvalidToken():
            return Problem("position-invalid", str(fault))
        case AppendTooLarge():
            return Problem("body-too-large", "The command would store more than the log takes at once.")
        case _:
            return Problem("internal-error", "Something failed that should not have. The trace id finds it in the logs.")


def install(app: FastAPI) -> None:
    """Makes `app` answer every error with a problem document. Unforeseen ones are raised on, for the edge to log."""
    app.add_exception_handler(HTTPException, _http_exception)
    app.add_exception_handler(RequestValidationError, _validation_error)
    app.add_exception_handler(ClientDisconnect, _nobody_there)
    app.add_exception_handler(Exception, _unforeseen)
    for expected in (
        Problem, Refusal, TokenRefused, StoreUnavailable, StreamBusy, KeysUnavailable, InvalidToken, AppendTooLarge,
    ):  # fmt: skip
        app.add_exception_handler(expected, _expected)


async def _expected(request: Request, fault: Exception) -> Response:
    problem = problem_of(fault)
    if isinstance(fault, StoreUnavailable):
        log.warning("the event store did not answer", fault=repr(fault))
    return response(request, problem)


async def _unforeseen(request: Request, fault: Exception) -> Response:
    return response(request, problem_of(fault))


async def _http_exception(request: Request, fault: Exception) -> Response:
    assert isinstance(fault, HTTPException)
    if fault.status_code == 404:
        problem = Problem("route-unknown", "There is no such address. /openapi.json lists those there are.")
    elif fault.status_code == 405:
        allowed = ", ".join(allowed_methods(request))
        problem = Problem("method-not-allowed", f"Only {allowed} applies here.", headers={"Allow": allowed})
    else:
        problem = Problem("request-invalid", str(fault.detail), headers=fault.headers)
    return response(request, problem)


async def _validation_error(request: Request, fault: Exception) -> Response:
    assert isinstance(fault, RequestValidationError)
    faults = [
        Fault("".join(f"/{part}" for part in error["loc"][1:]), str(error["msg"]), str(error["type"])) for error in fault.errors()
    ]
    return response(request, Problem("validation-failed", "`errors` lists what is wrong, each with its place.", faults=faults))


async def _nobody_there(request: Request, fault: Exception) -> Response:
    return Response(status_code=400)


def allowed_methods(request: Request) -> list[str]:
    """The methods that some route has at this path; where it is an address of its own, what a variable could stand for is not
    counted."""
    found: set[str] = set()
    own: set[str] = set()
    for route in request.app.routes:
        match, _ = route.matches({**request.scope, "method": "OPTIONS"})
        if match is not Match.NONE:
            methods: Any = getattr(route, "methods", None)
            found.update(methods or ())
            if getattr(route, "path", None) == request.scope["path"]:
                own.update(methods or ())
    return sorted(own or found)
