"""All that speaks ASGI: `harden`, its options, and problems."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..face import lazy

if TYPE_CHECKING:
    from ._concurrency import aside
    from ._cors import Cors
    from ._problem import (
        PROBLEMS,
        REFUSALS,
        Problem,
        problem_handler,
        problem_of,
        problem_response,
    )
    from ._ratelimit import RateLimit
    from ._types import ASGIApp, Message, Receive, Scope, Send
    from .options import HardenOptions, RouteOptions
    from .stack import Telemetry, harden
else:
    __getattr__, __dir__ = lazy(
        __name__,
        {
            "_concurrency": ("aside",),
            "_cors": ("Cors",),
            "_problem": (
                "PROBLEMS",
                "REFUSALS",
                "Problem",
                "problem_handler",
                "problem_of",
                "problem_response",
            ),
            "_ratelimit": ("RateLimit",),
            "_types": ("ASGIApp", "Message", "Receive", "Scope", "Send"),
            "options": ("HardenOptions", "RouteOptions"),
            "stack": ("Telemetry", "harden"),
        },
    )

__all__ = [
    "PROBLEMS",
    "REFUSALS",
    "ASGIApp",
    "Cors",
    "HardenOptions",
    "Message",
    "Problem",
    "RateLimit",
    "Receive",
    "RouteOptions",
    "Scope",
    "Send",
    "Telemetry",
    "aside",
    "harden",
    "problem_handler",
    "problem_of",
    "problem_response",
]
