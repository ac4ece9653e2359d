"""A task that needs a secret: it asks for it by name, and gets it when it runs.

    flux secrets set SIGNING_KEY
    flux run examples/secret_requests.py 'pay 5 to Ann'

Watch for: the body never sees the secret, and it is in no history, no log and no error. What would hold it is refused:
the second task returns it on purpose.
"""

import hashlib
import hmac
import os
from typing import Any

from flux import ExecutionContext, task, workflow

GIVEN: Any = None  # By Flux, at each call; the default tells type checkers that callers leave it out.


@task.with_options(secret_requests=["SIGNING_KEY"])
async def sign(text: str, secrets: dict[str, str] = GIVEN) -> str:
    return hmac.digest(secrets["SIGNING_KEY"].encode(), text.encode(), hashlib.sha256).hex()[:16]


@task.with_options(secret_requests=["SIGNING_KEY"])
async def leak(secrets: dict[str, str] = GIVEN) -> dict[str, str]:
    return {"the key is": secrets["SIGNING_KEY"]}


@workflow.with_options(secret_requests=["SIGNING_KEY"])  # So an execution is not even started without it.
async def signed(ctx: ExecutionContext[str]) -> str:
    signature = await sign(ctx.input)
    try:
        await leak()
    except ValueError as error:
        return f"{ctx.input}; {signature}; {error}"
    return "the secret is out"


if __name__ == "__main__":
    os.environ.setdefault("FLUX_SECRET_SIGNING_KEY", "correct-horse-battery")  # In life, it is set outside.
    ctx = signed.run("pay 5 to Ann")
    print(ctx.output)
    print("in the history:", "correct-horse-battery" in ctx.to_json())
