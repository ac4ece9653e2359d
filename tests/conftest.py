"""What holds for every test."""

import pytest


def pytest_configure(config: pytest.Config) -> None:
    """A warning is an error."""
    config.addinivalue_line("filterwarnings", "error")
