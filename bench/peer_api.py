# intent_ref: bench.benchmarks
"""The peer of the HTTP benchmarks: an empty FastAPI route with the same body model, on the same server with the same settings."""

import sys

import uvicorn
from fastapi import FastAPI

from write_api.intents import NewIntent

app = FastAPI()


@app.post("/api/v1/intents", status_code=201)
async def create(body: NewIntent) -> dict[str, str]:
    """Checks the body, does nothing."""
    return {"name": body.name}


@app.get("/api/v1/intents/{intent_id}")
async def read(intent_id: str) -> dict[str, str]:
    """Does nothing."""
    return {"id": intent_id}


if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[1]), loop="uvloop", http="httptools", log_config=None, access_log=False)
