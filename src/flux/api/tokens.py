"""Tokens over HTTP: made once, shown once, revoked at once.  All of it is for admins."""

import asyncio
from datetime import datetime
from typing import Annotated, Literal

from fastapi import APIRouter, Path
from pydantic import BaseModel, Field

from flux.api import models
from flux.api.surroundings import Here
from flux.catalogue import StoredToken
from flux.server import tokens

router = APIRouter(prefix="/tokens", tags=["tokens"])

Role = Literal["viewer", "operator", "admin"]
Name = Annotated[str, Path(max_length=255)]


class Token(BaseModel):
    """A token, without what is secret about it."""

    name: str
    role: Role
    created_at: datetime
    expires_at: datetime | None = Field(description="None: never.")


class NewToken(Token):
    """A token as it is shown once."""

    token: str = Field(description="Kept nowhere: send it as `Authorization: Bearer TOKEN`.")


class Create(models.Request):
    """What a token is to be."""

    name: str = Field(description="By which to revoke it.")
    role: Role = Field("viewer", description="A viewer reads, an operator acts on executions, an admin does all.")
    expires_in_seconds: int | None = Field(None, ge=1, le=10 * 366 * 86400, description="None: never.")


@router.get("")
async def list_tokens(here: Here) -> list[Token]:
    """List the tokens."""
    return [_shown(token) for token in await asyncio.to_thread(here.control.catalogue.tokens)]


@router.post("", status_code=201)
async def create_token(here: Here, body: Create) -> NewToken:
    """Make a token; it is shown in this answer, and never again."""
    made, text = await asyncio.to_thread(
        tokens.create,
        here.control.catalogue,
        here.control.clock,
        body.name,
        role=body.role,
        expires_in_seconds=body.expires_in_seconds,
    )
    return NewToken(**_shown(made).model_dump(), token=text)


@router.delete("/{name}", status_code=204)
async def revoke_token(here: Here, name: Name) -> None:
    """Revoke a token; what is open with it is closed within seconds."""
    await asyncio.to_thread(tokens.revoke, here.control.catalogue, name)


def _shown(token: StoredToken) -> Token:
    times = {"created_at": models.moment(token.created_at), "expires_at": models.moment(token.expires_at)}
    return Token.model_validate({"name": token.name, "role": token.role, **times})
