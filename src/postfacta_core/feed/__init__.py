"""One source, many watchers: what is published once is sent to each who may see it."""

from __future__ import annotations

from ._events import FRESH, GAP, STALE, FeedEvent
from .feed import HEADERS, Feed

__all__ = ["FRESH", "GAP", "HEADERS", "STALE", "Feed", "FeedEvent"]
