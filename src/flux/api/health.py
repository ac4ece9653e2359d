"""Whether the server lives, and whether it can work; no token is needed for these."""

import asyncio

from fastapi import APIRouter
from fastapi.responses import JSONResponse

from flux.api import errors
from flux.api.surroundings import Here
from flux.errors import StoreError

router = APIRouter(tags=["health"])


@router.get("/healthz")
async def healthz() -> dict[str, str]:
    """Say that the server answers."""
    return {"status": "ok"}


@router.get("/readyz", response_model=dict[str, str])
async def readyz(here: Here) -> JSONResponse:
    """Say whether the database can be used."""
    try:
        await asyncio.to_thread(here.control.catalogue.last_change)
    except StoreError as error:
        return errors.of(error)
    return JSONResponse({"status": "ok"})
