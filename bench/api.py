# intent_ref: bench.benchmarks
"""The HTTP API beside empty FastAPI routes with the same body model, and how soon a command can be read."""

import time
from typing import Any

import httpx

import quantum.demo
from bench.ground import TENANT, Figure, Served, caught_up, fetch, load, median_turn, peer_api, postgres, serving

CONNECTIONS = 64
ROLES = ("write-api", "read-api", "projector")
INTENT: dict[str, Any] = {**quantum.demo.INTENT, "name": "deploy-$N"}


async def measure(seconds: float) -> list[Figure]:
    """Requests a second at 64 connections, and milliseconds from a command's answer to a read that shows it."""
    async with postgres() as (folder, urls):
        with peer_api() as peer, serving(folder, urls, ROLES) as served:
            await _posts(served.of("write-api"), served.token, 1, "warm")
            empty_post, post, of_empty = await _in_turns(peer, served, seconds)
            await caught_up(urls)
            port = served.of("read-api")[0]
            paths = [
                f"/api/v1/intents/{item['id']}"
                for item in (await fetch(port, "/api/v1/intents?limit=200", served.token))["items"]
            ]
            empty_get = await _gets([peer], paths, served.token, seconds)
            get = await _gets([port], paths, served.token, seconds)
            visible = await _visible(served, 300)
        with serving(folder, urls, ("all",)) as served:
            alone = await _posts(served.of("all"), served.token, seconds, "alone")
    return [
        Figure("POST /intents, processes by role", _rate(post), _rate(empty_post), of_empty, 0.5),
        Figure("POST /intents, p95 in ms", f"{post['p95_ms']:.1f}", "50", post["p95_ms"], 50, at_most=True),
        Figure(
            "POST /intents, everything in one process", _rate(alone), _rate(empty_post), alone["rate"] / empty_post["rate"], 0.5
        ),
        Figure("GET /intents/{id}", _rate(get), _rate(empty_get), get["rate"] / empty_get["rate"], 0.6),
        Figure(
            "accepted to visible, idle, p99 in ms",
            f"p50 {visible[0]:.1f}, p99 {visible[1]:.1f}",
            "30",
            visible[1],
            30,
            at_most=True,
        ),
    ]


async def _in_turns(peer: int, served: Served, seconds: float) -> tuple[dict[str, Any], dict[str, Any], float]:
    """The empty route and ours in five turns each, because the machine's speed changes within seconds: the turn of the median
    ratio, and that ratio."""
    turns = []
    for _ in range(5):
        empty = await _posts([peer], served.token, seconds / 2, "peer")
        ours = await _posts(served.of("write-api"), served.token, seconds / 2, "ours")
        turns.append((ours["rate"] / empty["rate"], empty, ours))
    ratio, empty, ours = median_turn(turns, lambda turn: turn[0])
    return empty, ours, ratio


async def _posts(ports: list[int], token: str, seconds: float, run: str) -> dict[str, Any]:
    job = {"kind": "post", "path": "/api/v1/intents", "body": INTENT, "ports": ports, "token": token}
    return await load({**job, "connections": CONNECTIONS, "seconds": seconds, "run": f"{run}-{time.monotonic_ns()}"})


async def _gets(ports: list[int], paths: list[str], token: str, seconds: float) -> dict[str, Any]:
    return await load(
        {"kind": "get", "paths": paths, "ports": ports, "token": token, "connections": CONNECTIONS, "seconds": seconds}
    )


async def _visible(served: Served, samples: int) -> tuple[float, float]:
    """Milliseconds from a POST's answer to the answer of a GET that waits for it, one at a time: (p50, p99)."""
    write, read = served.of("write-api")[0], served.of("read-api")[0]
    headers = {"Authorization": f"Bearer {served.token}", "X-Tenant-Id": TENANT}
    took = []
    async with httpx.AsyncClient(headers=headers) as client:
        for number in range(samples):
            body = {**INTENT, "name": f"visible-{time.monotonic_ns()}-{number}"}
            answer = await client.post(f"http://127.0.0.1:{write}/api/v1/intents", json=body)
            began = time.perf_counter()
            after = {"Quantum-Min-Position": answer.headers["Quantum-Position"]}
            shown = await client.get(f"http://127.0.0.1:{read}/api/v1/intents/{answer.json()['id']}", headers=after)
            took.append((time.perf_counter() - began) * 1e3)
            if shown.status_code != 200:
                raise RuntimeError(f"The read answered {shown.status_code}: {shown.text}")
    took.sort()
    return took[len(took) // 2], took[int(len(took) * 0.99)]


def _rate(result: dict[str, Any]) -> str:
    return f"{result['rate']:,.0f}/s p95 {result['p95_ms']:.0f} ms"
