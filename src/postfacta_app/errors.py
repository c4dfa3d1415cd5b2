"""The app's errors: one class for each problem that a caller can be told of."""

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
    """One broken rule: a JSON pointer or `?parameter`, a short code, and the rule in plain words."""

    pointer: str
    code: str
    message: str


class AppError(Exception):
    """A refusal with a documented type.

    Args:
        detail: What is wrong here and what to do about it, in one sentence; no cause, SQL or path.
        errors: The fields that broke a rule.
        headers: Further answer headers, such as `ETag`.
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
    """The request cannot be read: JSON, a header or a parameter is not what it claims to be."""

    slug, status, title = "malformed", 400, "The request cannot be read"


class InvalidCursorError(AppError):
    """A paging cursor is damaged, or belongs to another list."""

    slug, status, title = "invalid-cursor", 400, "The cursor does not fit this list"


class UnauthenticatedError(AppError):
    """Nobody is signed in, or the token is no longer good."""

    slug, status, title = "unauthenticated", 401, "Sign in first"


class ForbiddenError(AppError):
    """Signed in, but not allowed to do this."""

    slug, status, title = "forbidden", 403, "Not allowed"


class RegistrationClosedError(AppError):
    """People are added by an administrator here."""

    slug, status, title = "registration-closed", 403, "Registration is closed"


class NotFoundError(AppError):
    """There is no such thing, or none that the caller may see."""

    slug, status, title = "not-found", 404, "Not found"


class MethodNotAllowedError(AppError):
    """The path exists, the method does not; `Allow` names those that do."""

    slug, status, title = "method-not-allowed", 405, "Method not allowed"


class ConflictError(AppError):
    """The request contradicts what is stored."""

    slug, status, title = "conflict", 409, "Conflict with what is stored"


class IllegalTransitionError(AppError):
    """The incident cannot move to that state from where it is."""

    slug, status, title = "illegal-transition", 409, "Not a move this incident can make"


class NotPublishableError(AppError):
    """The post-mortem lacks what readers need; `missing` lists it: a summary, an impact, factors, owners."""

    slug, status, title = "not-publishable", 409, "The post-mortem cannot be published yet"


class IdempotencyInProgressError(AppError):
    """Another request with this Idempotency-Key is still at work."""

    slug, status, title = "idempotency-in-progress", 409, "The same request is still being processed"


class PreconditionFailedError(AppError):
    """`If-Match` names an older version than the stored one."""

    slug, status, title = "precondition-failed", 412, "Somebody changed it in the meantime"


class UnsupportedMediaTypeError(AppError):
    """The body is not JSON."""

    slug, status, title = "unsupported-media-type", 415, "Only JSON is understood here"


class InvalidFieldsError(AppError):
    """The JSON is sound, but some fields break a rule."""

    slug, status, title = "validation", 422, "Some fields break a rule"


class IdempotencyMismatchError(AppError):
    """The Idempotency-Key was used for another request."""

    slug, status, title = "idempotency-mismatch", 422, "This Idempotency-Key belongs to another request"


class PreconditionRequiredError(AppError):
    """A change must say which version it starts from."""

    slug, status, title = "precondition-required", 428, "Say which version you change"


class RateLimitedError(AppError):
    """Too many requests, or tries to sign in, in a short time."""

    slug, status, title = "rate-limited", 429, "Too many requests"


class SchemaMissingError(AppError):
    """The database lacks tables that this version needs: an operator runs `postfacta migrate`."""

    slug, status, title = "schema-missing", 503, "The database is not ready for this version"
