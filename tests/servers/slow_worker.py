"""A worker of gunicorn with the bounds of `slow_app`, for `test_slow_clients`."""

from __future__ import annotations

from uvicorn_worker import UvicornWorker  # type: ignore[import-untyped] # it has no types

options = {"CONFIG_KWARGS": {**UvicornWorker.CONFIG_KWARGS, "http": "slow_app:Http"}}
BoundedWorker = type("BoundedWorker", (UvicornWorker,), options)
