"""Secrets: encrypted in the database, in the environment, or in files; tasks request them by name."""

from flux.secret_managers.keys import KeyRing
from flux.secret_managers.manager import SecretManager

__all__ = ["KeyRing", "SecretManager"]
