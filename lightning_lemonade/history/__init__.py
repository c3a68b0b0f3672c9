"""What a search leaves on disk: a database (SQLite) and weights (safetensors), written so that a kill loses one child at most."""

from lightning_lemonade.history.database import DATABASE
from lightning_lemonade.history.history import History
from lightning_lemonade.history.lock import owner_of
from lightning_lemonade.history.schema import SCHEMA_VERSION

__all__ = ["DATABASE", "SCHEMA_VERSION", "History", "owner_of"]
