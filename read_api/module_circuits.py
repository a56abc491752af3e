# intent_ref: read-api.modules
"""The circuit breakers of modules, put into the modules' documents: what each process that calls them has last said."""

from collections.abc import Sequence
from typing import Any, Final

import orjson

from domain.documents import timestamp
from domain.values import TenantId

_ROWS_MAX: Final = 10_000
_PROCESSES_SHOWN_MAX: Final = 20
_READ: Final = "SELECT * FROM quantum.read_module_circuits($1, $2, $3)"
_WORST_FIRST: Final = {"open": 0, "half-open": 1, "closed": 2}


async def with_circuits(tenant_pool: Any, tenant_id: TenantId, bodies: Sequence[bytes]) -> list[bytes]:
    """The documents of modules, each with its `circuit`: null where the module has no address of its own."""
    documents = [orjson.loads(body) for body in bodies]
    urls = [url for one in documents if (url := one["transport"]["url"]) is not None]
    known: dict[str, list[dict[str, Any]]] = {}
    if urls:
        for url, process, state, since, failures, probe_at in await tenant_pool.fetch(_READ, tenant_id, urls, _ROWS_MAX):
            known.setdefault(url, []).append(
                {
                    "process": process, "state": state, "since": timestamp(since), "failures": failures,
                    "next_probe_at": None if probe_at is None else timestamp(probe_at),
                }
            )  # fmt: skip
    return [
        orjson.dumps({**one, "circuit": None if url is None else circuit_document(known.get(url, []))})
        for one in documents
        for url in (one["transport"]["url"],)
    ]


def circuit_document(processes: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The state is the worst of any process; of nobody having said anything, it is closed."""
    worst_first = sorted(processes, key=lambda one: (_WORST_FIRST[one["state"]], one["process"]))
    return {
        "state": worst_first[0]["state"] if worst_first else "closed",
        "processes": worst_first[:_PROCESSES_SHOWN_MAX],
    }
