"""A test kit for services and for this library.

Time by hand or in virtual time, events on a list, faults on purpose.
"""

from __future__ import annotations

from .asgi import call_asgi
from .virtual import ManualClock, RecordingObserver, run_in_virtual_time, testing_mode

__all__ = ["ManualClock", "RecordingObserver", "call_asgi", "run_in_virtual_time", "testing_mode"]
