"""The app's errors: one class for each problem type."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
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


class AppError(Exception):
    """An error with a documented problem type; `extra` are more members of its document, such as `allowed`.

    `detail` says what is wrong and how to fix it, in one sentence: no cause, SQL or path.
    """

    slug: str
    status: int
    title: str
    about: str  # what its page says; no docstring, since `python -OO` drops those
    message: str = ""  # what v0 says, if it is not the detail
    is_spent: bool = False  # whether the idempotency key of a form was used, so that it needs a new one

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

    @classmethod
    def of(cls, problem: Problem, detail: str, *, headers: Mapping[str, str] | None = None) -> Self:
        error = cls(detail, headers=headers)
        error.slug, error.status, error.title = problem.code, problem.status, problem.title
        return error

    @property
    def by_field(self) -> dict[str, str]:
        # Of several, the first.
        return {it.pointer.lstrip("/").partition("/")[0]: it.message for it in reversed(self.errors)}


class MalformedError(AppError):
    slug, status, title = "malformed", 400, "Malformed request"
    about = "The request is malformed: its JSON, a header or a parameter is invalid."


class InvalidCursorError(AppError):
    slug, status, title = "invalid-cursor", 400, "Invalid cursor"
    about = "The cursor is damaged, or was issued for another list."


class UnauthenticatedError(AppError):
    slug, status, title = "unauthenticated", 401, "Authentication required"
    about = "There are no credentials, or they are invalid or expired."


class ForbiddenError(AppError):
    slug, status, title = "forbidden", 403, "Forbidden"
    about = "Signed in, but not allowed to do this."


class RegistrationClosedError(AppError):
    slug, status, title = "registration-closed", 403, "Registration is closed"
    about = "Accounts are created by an administrator here."


class NotFoundError(AppError):
    slug, status, title = "not-found", 404, "Not found"
    about = "It does not exist, or the caller may not see it."


class MethodNotAllowedError(AppError):
    slug, status, title = "method-not-allowed", 405, "Method not allowed"
    about = "The path does not support this method; `Allow` lists those it supports."


class ConflictError(AppError):
    slug, status, title = "conflict", 409, "Conflict with the stored state"
    about = "The request conflicts with the stored state."


class IllegalTransitionError(AppError):
    slug, status, title = "illegal-transition", 409, "Invalid status transition"
    about = "The incident or post-mortem cannot change from its current status to that one."


class NotPublishableError(AppError):
    slug, status, title = "not-publishable", 409, "The post-mortem cannot be published yet"
    about = "The post-mortem lacks what `missing` lists: a summary, an impact, factors or owners."


class IdempotencyInProgressError(AppError):
    slug, status, title = "idempotency-in-progress", 409, "The same request is still being processed"
    about = "Another request with this Idempotency-Key is still in progress."


class PreconditionFailedError(AppError):
    slug, status, title = "precondition-failed", 412, "Changed in the meantime"
    about = "`If-Match` names an older version than the stored one."


class UnsupportedMediaTypeError(AppError):
    slug, status, title = "unsupported-media-type", 415, "Unsupported media type"
    about = "The body is not JSON."


class InvalidFieldsError(AppError):
    slug, status, title = "validation", 422, "Invalid fields"
    about = "The JSON is well-formed, but some fields are invalid."


class IdempotencyMismatchError(AppError):
    slug, status, title = "idempotency-mismatch", 422, "This Idempotency-Key belongs to another request"
    about = "The Idempotency-Key was used for another request."
    is_spent = True


class PreconditionRequiredError(AppError):
    slug, status, title = "precondition-required", 428, "Precondition required"
    about = "A change must name the version it starts from."


class RateLimitedError(AppError):
    slug, status, title = "rate-limited", 429, "Too many requests"
    about = "Too many requests or sign-in attempts in a short time."


class FeatureOffError(AppError):
    slug, status, title = "feature-off", 503, "Turned off for now"
    about = "An operator has turned this feature off; `Retry-After` says when to try again."


class SchemaMissingError(AppError):
    slug, status, title = "schema-missing", 503, "The database is not ready for this version"
    about = "The database lacks tables that this version needs: an operator must run `postfacta migrate`."


def slow_down(seconds: float) -> RateLimitedError:
    wait = max(1, math.ceil(seconds))
    return RateLimitedError("Too many attempts; wait before the next one", headers={"Retry-After": str(wait)})


def invalid(pointer: str, code: str, message: str) -> InvalidFieldsError:
    return InvalidFieldsError(message, errors=[FieldError(pointer, code, message)])
