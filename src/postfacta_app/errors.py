"""The app's errors: one class for each problem type."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from types import MappingProxyType
from typing import Self

from postfacta_core.asgi import Problem


@dataclass(frozen=True, slots=True)
class FieldError:
    """One invalid field: a JSON pointer or `?parameter`, a short code, and a message."""

    pointer: str
    code: str
    message: str


class CommandFailedError(Exception):
    """Ends a command with 1; the message is for its user."""


@dataclass(eq=False, repr=False)
class AppError(Exception):
    """An error with a problem type, which problem.html explains.

    `extra` are more members of its document.

    `detail` says what is wrong and how to fix it, in one sentence: no cause, SQL or path.
    """

    slug = ""
    status = 500
    title = ""
    is_spent = False  # whether the idempotency key of a form was used, so that it needs a new one

    detail: str
    _: KW_ONLY
    errors: Sequence[FieldError] = ()
    headers: Mapping[str, str] = field(default_factory=dict[str, str])
    extra: Mapping[str, object] = field(default_factory=dict[str, object])
    message: str = ""  # what v0 says, if it is not the detail

    @classmethod
    def of(
        cls, problem: Problem, detail: str, headers: Mapping[str, str] = MappingProxyType({})
    ) -> Self:
        error = cls(detail, headers=headers)
        error.slug = problem.code
        error.status = problem.status
        error.title = problem.title
        return error

    @property
    def by_field(self) -> dict[str, str]:
        """Return the message of each invalid top-level field; of several errors, the first."""
        messages: dict[str, str] = {}
        for error in self.errors:
            name = error.pointer.lstrip("/").partition("/")[0]
            messages.setdefault(name, error.message)
        return messages


def _kind(
    slug: str, status: int, title: str, *, name: str = "", is_spent: bool = False
) -> type[AppError]:
    """Return the class of a problem type; `not-found` names it `NotFoundError`."""
    about = {
        "slug": slug,
        "status": status,
        "title": title,
        "is_spent": is_spent,
        "__module__": __name__,
    }
    return type(name or f"{slug.title().replace('-', '')}Error", (AppError,), about)


MalformedError = _kind("malformed", 400, "Malformed request")
InvalidCursorError = _kind("invalid-cursor", 400, "Invalid cursor")
UnauthenticatedError = _kind("unauthenticated", 401, "Authentication required")
ForbiddenError = _kind("forbidden", 403, "Forbidden")
RegistrationClosedError = _kind("registration-closed", 403, "Registration is closed")
NotFoundError = _kind("not-found", 404, "Not found")
MethodNotAllowedError = _kind("method-not-allowed", 405, "Method not allowed")
ConflictError = _kind("conflict", 409, "Conflict with the stored state")
IllegalTransitionError = _kind("illegal-transition", 409, "Invalid status transition")
NotPublishableError = _kind("not-publishable", 409, "The post-mortem cannot be published yet")
IdempotencyInProgressError = _kind(
    "idempotency-in-progress", 409, "The same request is still being processed"
)
PreconditionFailedError = _kind("precondition-failed", 412, "Changed in the meantime")
UnsupportedMediaTypeError = _kind("unsupported-media-type", 415, "Unsupported media type")
InvalidFieldsError = _kind("validation", 422, "Invalid fields", name="InvalidFieldsError")
IdempotencyMismatchError = _kind(
    "idempotency-mismatch", 422, "This Idempotency-Key belongs to another request", is_spent=True
)
PreconditionRequiredError = _kind("precondition-required", 428, "Precondition required")
RateLimitedError = _kind("rate-limited", 429, "Too many requests")
FeatureOffError = _kind("feature-off", 503, "Turned off for now")
SchemaMissingError = _kind("schema-missing", 503, "The database is not ready for this version")


def slow_down(seconds: float) -> AppError:
    wait = max(1, math.ceil(seconds))
    return RateLimitedError(
        f"Too many attempts; try again in {wait} s", headers={"Retry-After": str(wait)}
    )


def invalid(pointer: str, code: str, message: str) -> AppError:
    return InvalidFieldsError(message, errors=[FieldError(pointer, code, message)])
