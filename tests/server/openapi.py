"""Prints the OpenAPI document: `python tests/server/openapi.py > docs/openapi.json` writes it anew."""

import json
import tempfile
from pathlib import Path

from flux.api.application import create_application
from flux.api.guard import Access
from flux.app import App
from flux.settings import Settings


def document() -> str:
    """The document, as text."""
    with tempfile.TemporaryDirectory() as folder:
        app = App(Settings(database=Path(folder) / "flux.db"))
        access = Access(hosts=frozenset(), find=app.catalogue.find_token, clock=app.clock, is_open=True)
        shown = create_application(app.control(), access=access).openapi()
        app.close()
    return json.dumps(shown, indent=1) + "\n"


if __name__ == "__main__":
    print(document(), end="")
