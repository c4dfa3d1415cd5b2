"""Let pages of other origins read answers, including those that a layer sends instead of the application."""

from __future__ import annotations

from ..validation import validation
from ._cors import EXAMPLE, Cors, CorsRules
from ._kernel import Kernel
from ._problem import Render
from ._settings import settings
from ._types import ASGIApp

__all__ = ["Cors", "CorsMiddleware"]


class CorsMiddleware(Kernel):
    """Answer preflights, and put the CORS headers on every answer, including refusals and crashes.

    What an application inside decides by itself is replaced.

    Args:
        app: The application to wrap.
        cors: What is allowed.
        render: Another shape of problem, for a preflight that is refused.
    """

    def __init__(self, app: ASGIApp, cors: Cors, *, render: Render | None = None) -> None:
        settings.application("CorsMiddleware", app)
        validation.instance("CorsMiddleware.cors", cors, Cors, example="Cors(" + EXAMPLE + ")")
        settings.function_or_none("CorsMiddleware.render", render)
        super().__init__(app, cors=CorsRules(cors), render=render)
