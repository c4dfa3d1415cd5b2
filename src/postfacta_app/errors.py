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
    """An error with a problem type, which problem.html explains; `extra` are more members of its document.

    `detail` says what is wrong and how to fix it, in one sentence: no cause, SQL or path.
    """

    slug, status, title = "", 500, ""
    is_spent = False  # whether the idempotency key of a form was used, so that it needs a new one

    detail: str
    _: KW_ONLY
    errors: Sequence[FieldError] = ()
    headers: Mapping[str, str] = field(default_factory=dict[str, str])
    extra: Mapping[str, object] = field(default_factory=dict[str, object])
    message: str = ""  # what v0 says, if it is not the detail

    @classmethod
    def of(cls, problem: Problem, detail: str, headers: Mapping[str, str] = MappingProxyType({})) -> Self:
        error = cls(detail, headers=headers)
        error.slug, error.status, error.title = problem.code, problem.status, problem.title
        return error

    @property
    def by_field(self) -> dict[str, str]:
        # Of several, the first.
        return {it.pointer.lstrip("/").partition("/")[0]: it.message for it in reversed(self.errors)}


class MalformedError(AppError):
    slug, status, title = "malformed", 400, "Malformed request"


class InvalidCursorError(AppError):
    slug, status, title = "invalid-cursor", 400, "Invalid cursor"


class UnauthenticatedError(AppError):
    slug, status, title = "unauthenticated", 401, "Authentication required"


class ForbiddenError(AppError):
    slug, status, title = "forbidden", 403, "Forbidden"


class RegistrationClosedError(AppError):
    slug, status, title = "registration-closed", 403, "Registration is closed"


class NotFoundError(AppError):
    slug, status, title = "not-found", 404, "Not found"


class MethodNotAllowedError(AppError):
    slug, status, title = "method-not-allowed", 405, "Method not allowed"


class ConflictError(AppError):
    slug, status, title = "conflict", 409, "Conflict with the stored state"


class IllegalTransitionError(AppError):
    slug, status, title = "illegal-transition", 409, "Invalid status transition"


class NotPublishableError(AppError):
    slug, status, title = "not-publishable", 409, "The post-mortem cannot be published yet"


class IdempotencyInProgressError(AppError):
    slug, status, title = "idempotency-in-progress", 409, "The same request is still being processed"


class PreconditionFailedError(AppError):
    slug, status, title = "precondition-failed", 412, "Changed in the meantime"


class UnsupportedMediaTypeError(AppError):
    slug, status, title = "unsupported-media-type", 415, "Unsupported media type"


class InvalidFieldsError(AppError):
    slug, status, title = "validation", 422, "Invalid fields"


class IdempotencyMismatchError(AppError):
    slug, status, title = "idempotency-mismatch", 422, "This Idempotency-Key belongs to another request"
    is_spent = True


class PreconditionRequiredError(AppError):
    slug, status, title = "precondition-required", 428, "Precondition required"


class RateLimitedError(AppError):
    slug, status, title = "rate-limited", 429, "Too many requests"


class FeatureOffError(AppError):
    slug, status, title = "feature-off", 503, "Turned off for now"


class SchemaMissingError(AppError):
    slug, status, title = "schema-missing", 503, "The database is not ready for this version"


def slow_down(seconds: float) -> RateLimitedError:
    wait = max(1, math.ceil(seconds))
    return RateLimitedError("Too many attempts; wait before the next one", headers={"Retry-After": str(wait)})


def invalid(pointer: str, code: str, message: str) -> InvalidFieldsError:
    return InvalidFieldsError(message, errors=[FieldError(pointer, code, message)])
