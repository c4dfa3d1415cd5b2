"""A test kit for services and for this library.

Time by hand or in virtual time, events on a list, faults on purpose.
"""

from __future__ import annotations

from .asgi import AsgiResponse, call_asgi
from .chaos import Chaos, Fault, cancel_at_each_await, cancellable
from .virtual import (
    ManualClock,
    RecordingObserver,
    VirtualTimeLoop,
    run_in_virtual_time,
    testing_mode,
)

__all__ = [
    "AsgiResponse",
    "Chaos",
    "Fault",
    "ManualClock",
    "RecordingObserver",
    "VirtualTimeLoop",
    "call_asgi",
    "cancel_at_each_await",
    "cancellable",
    "run_in_virtual_time",
    "testing_mode",
]
