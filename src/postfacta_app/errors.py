"""The app's errors: one class for each problem type."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

__all__ = [
    "AppError",
    "ConflictError",
    "FieldError",
    "ForbiddenError",
    "IdempotencyInProgressError",
    "IdempotencyMismatchError",
    "IllegalTransitionError",
    "InvalidCursorError",
    "InvalidFieldsError",
    "MalformedError",
    "MethodNotAllowedError",
    "NotFoundError",
    "NotPublishableError",
    "PreconditionFailedError",
    "PreconditionRequiredError",
    "RateLimitedError",
    "RegistrationClosedError",
    "SchemaMissingError",
    "UnauthenticatedError",
    "UnsupportedMediaTypeError",
]


@dataclass(frozen=True, slots=True)
class FieldError:
    """One invalid field: a JSON pointer or `?parameter`, a short code, and a message."""

    pointer: str
    code: str
    message: str


class AppError(Exception):
    """An error with a documented problem type.

    Args:
        detail: What is wrong and how to fix it, in one sentence; no cause, SQL or path.
        errors: The invalid fields.
        headers: Further response headers, such as `ETag`.
        extra: Further members of the problem document, such as `allowed`.
    """

    slug: ClassVar[str]
    status: ClassVar[int]
    title: ClassVar[str]

    def __init__(
        self,
        detail: str,
        *,
        errors: Sequence[FieldError] = (),
        headers: Mapping[str, str] | None = None,
        extra: Mapping[str, object] | None = None,
    ) -> None:
        super().__init__(detail)
        self.detail = detail
        self.errors = tuple(errors)
        self.headers = dict(headers or {})
        self.extra = dict(extra or {})


class MalformedError(AppError):
    """The request is malformed: its JSON, a header or a parameter is invalid."""

    slug, status, title = "malformed", 400, "Malformed request"


class InvalidCursorError(AppError):
    """The cursor is damaged, or was issued for another list."""

    slug, status, title = "invalid-cursor", 400, "Invalid cursor"


class UnauthenticatedError(AppError):
    """There are no credentials, or they are invalid or expired."""

    slug, status, title = "unauthenticated", 401, "Authentication required"


class ForbiddenError(AppError):
    """Signed in, but not allowed to do this."""

    slug, status, title = "forbidden", 403, "Forbidden"


class RegistrationClosedError(AppError):
    """Accounts are created by an administrator here."""

    slug, status, title = "registration-closed", 403, "Registration is closed"


class NotFoundError(AppError):
    """It does not exist, or the caller may not see it."""

    slug, status, title = "not-found", 404, "Not found"


class MethodNotAllowedError(AppError):
    """The path does not support this method; `Allow` lists those it supports."""

    slug, status, title = "method-not-allowed", 405, "Method not allowed"


class ConflictError(AppError):
    """The request conflicts with the stored state."""

    slug, status, title = "conflict", 409, "Conflict with the stored state"


class IllegalTransitionError(AppError):
    """The incident or post-mortem cannot change from its current status to that one."""

    slug, status, title = "illegal-transition", 409, "Invalid status transition"


class NotPublishableError(AppError):
    """The post-mortem is incomplete; `missing` lists what it needs: a summary, an impact, factors, owners."""

    slug, status, title = "not-publishable", 409, "The post-mortem cannot be published yet"


class IdempotencyInProgressError(AppError):
    """Another request with this Idempotency-Key is still in progress."""

    slug, status, title = "idempotency-in-progress", 409, "The same request is still being processed"


class PreconditionFailedError(AppError):
    """`If-Match` names an older version than the stored one."""

    slug, status, title = "precondition-failed", 412, "Changed in the meantime"


class UnsupportedMediaTypeError(AppError):
    """The body is not JSON."""

    slug, status, title = "unsupported-media-type", 415, "Unsupported media type"


class InvalidFieldsError(AppError):
    """The JSON is well-formed, but some fields are invalid."""

    slug, status, title = "validation", 422, "Invalid fields"


class IdempotencyMismatchError(AppError):
    """The Idempotency-Key was used for another request."""

    slug, status, title = "idempotency-mismatch", 422, "This Idempotency-Key belongs to another request"


class PreconditionRequiredError(AppError):
    """A change must name the version it starts from."""

    slug, status, title = "precondition-required", 428, "Precondition required"


class RateLimitedError(AppError):
    """Too many requests or sign-in attempts in a short time."""

    slug, status, title = "rate-limited", 429, "Too many requests"


class SchemaMissingError(AppError):
    """The database lacks tables that this version needs: an operator must run `postfacta migrate`."""

    slug, status, title = "schema-missing", 503, "The database is not ready for this version"
