"""A server that does no more than it must: it parses a request and makes one durable commit.  Argument: the port."""

import sqlite3
import sys
import threading
import time
import uuid

import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel


class Start(BaseModel):
    input: str
    attributes: dict[str, str] = {}


app = FastAPI()
database = sqlite3.connect("bare.db", isolation_level=None, check_same_thread=False)
for pragma in ("journal_mode = wal", "synchronous = full"):
    database.execute(f"PRAGMA {pragma}")
database.execute("CREATE TABLE starts (id TEXT PRIMARY KEY, input TEXT, created_at REAL)")
lock = threading.Lock()


@app.get("/healthz")
def healthz() -> dict[str, str]:
    return {"status": "ok"}


@app.post("/api/workflows/{name}/executions", status_code=202)
def start(name: str, body: Start) -> dict[str, str]:
    id_ = uuid.uuid4().hex
    with lock:
        database.execute("INSERT INTO starts VALUES (?, ?, ?)", (id_, body.input, time.time()))
    return {"execution_id": id_, "workflow": name}


if __name__ == "__main__":
    uvicorn.run(app, port=int(sys.argv[1]), log_level="error", access_log=False)
