"""Secrets over HTTP: values go in, and none comes out.  All of it is for admins."""

import asyncio
from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Depends
from pydantic import BaseModel, Field

from flux.api import models
from flux.api.surroundings import Here
from flux.errors import InvalidValueError
from flux.secret_managers import SecretManager

router = APIRouter(prefix="/secrets", tags=["secrets"])


class Secret(BaseModel):
    """What may be shown of a secret."""

    name: str
    where: str = Field(description="Where it is found first: env, file or store.")
    version: int = Field(description="Counts its values in the store; 0 elsewhere.")
    updated_at: datetime | None


class Value(models.Request):
    """What a secret is to be."""

    value: str = Field(min_length=1, max_length=65536)


def _manager(here: Here) -> SecretManager:
    if here.secrets is None:
        raise InvalidValueError("this application keeps no secrets: give create_application what keeps them")
    return here.secrets()


Manager = Annotated[SecretManager, Depends(_manager)]


@router.get("")
async def list_secrets(manager: Manager) -> list[Secret]:
    """List the names of all secrets, and where each is found."""
    return [
        Secret(name=each.name, where=each.where, version=each.version, updated_at=models.moment(each.updated_at))
        for each in await asyncio.to_thread(manager.listed)
    ]


@router.put("/{name}", status_code=204)
async def put_secret(manager: Manager, name: str, body: Value) -> None:
    """Keep a secret, in place of an older one of that name."""
    await asyncio.to_thread(manager.save, name, body.value)


@router.delete("/{name}", status_code=204)
async def delete_secret(manager: Manager, name: str) -> None:
    """Forget a secret of the database."""
    await asyncio.to_thread(manager.remove, name)
