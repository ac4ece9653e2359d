"""The names of `flux.testing`: pinned, and each in its page."""

import inspect
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import flux.testing
from flux.testing import plugin

DOCUMENT = (Path(__file__).resolve().parents[2] / "docs" / "testing.md").read_text("utf-8")
IN_CODE = {word for span in re.findall(r"`([^`\n]+)`", DOCUMENT) for word in re.findall(r"\w+", span)}


def test_the_names_are_these():
    names = (
        "Bed CrashReport CrashTestError Effect Faked FakedCall Ledger RecordedCall Signal VirtualLoop VirtualTime "
        "assert_called calls_of crash_everywhere export_history fake import_history replay"
    )

    assert sorted(flux.testing.__all__) == names.split()
    assert all(inspect.getdoc(getattr(flux.testing, name)) for name in names.split())


def test_every_name_is_documented():
    assert set(flux.testing.__all__) - IN_CODE == set()
    assert hasattr(plugin, "flux_bed") and "flux_bed" in IN_CODE


@pytest.mark.parametrize("function", [flux.testing.crash_everywhere, flux.testing.fake, flux.testing.assert_called])
def test_every_option_is_documented(function: Callable[..., Any]):
    parameters = inspect.signature(function).parameters.values()
    options = [each.name for each in parameters if each.kind is each.KEYWORD_ONLY]

    assert options
    assert [name for name in options if f"{name}=" not in DOCUMENT] == []
