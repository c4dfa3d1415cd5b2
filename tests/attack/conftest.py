"""What the attacks share with the tests of the app: a migrated database to copy."""

from __future__ import annotations

from tests.app.conftest import app_template

__all__ = ["app_template"]
