"""What schemathesis must know of this service.

It loads this file by its name, in its own process.
"""

from __future__ import annotations

import ast
import os
import re
import threading
from typing import Any

import schemathesis
from schemathesis.core import NOT_SET
from schemathesis.core.failures import Failure
from schemathesis.generation.case import Case
from schemathesis.openapi.checks import RejectedPositiveData

# Rules that JSON Schema cannot tell: they ask for the clock, the database, or another field.
BEYOND_SCHEMA = re.compile(
    r"/(declared|occurred|expires)_at out_of_range"
    r"|/members/\d+ unknown|/members too_short|/visibility forbidden"
    r"|/to (unknown|same)|/rev unknown|/message required|/closed_reason (required|forbidden)|/content too_long"
    r"|/content(/factors)? value_error|/email value_error"
    r"|/value/at out_of_range|/state (forbidden|state)|/(occurred_at|precision) forbidden"
    r"|/outcome (required|forbidden)|/reason required|/current_password invalid"
    r"| value_error"
)
# A cursor is opaque, and whether a key was used before only the database knows. v0 has no slugs.
REFUSALS = {
    "/problems/invalid-cursor",
    "/problems/idempotency-mismatch",
    "Start again without a cursor",
    "This Idempotency-Key was used with another request; use a new one",
    # What earlier answers held is tried as a header too, pattern or not.
    'If-Match: an entity tag must be in double quotes, as in "inc-3"',
    # In a field that v0 does not know, and ignores otherwise; the known ones have a pattern.
    "Invalid request body: a text contains U+0000",
    # Where any JSON may stand, a schema has no place to say it.
    "a text contains U+0000",
    # JSON Schema has no words for scripts, invisible characters and normal forms.
    "email must be an address in its normal form (NFKC), too",
    "email must have no invisible characters",
    "email must not mix the letters of two scripts in one word",
}


# CPython before 3.11.8 cannot parse in two threads at once (gh-106905), which hypothesis does where
# any JSON may stand.
_parse, _parsing = ast.parse, threading.Lock()


def _parse_alone(*args: Any, **options: Any) -> Any:
    with _parsing:
        return _parse(*args, **options)


ast.parse = _parse_alone


@schemathesis.hook  # pyright: ignore[reportUnknownMemberType] - its own type names no parameters
def before_call(context: schemathesis.HookContext, case: Case[Any], kwargs: dict[str, Any]) -> None:
    """Keep the requests to what a test can judge."""
    if case.method.upper() in {"GET", "HEAD"}:
        # To see whether GET is refused where it is no method, it is sent with the body of the POST.
        case.body = NOT_SET
    if case.path_parameters and case.path_parameters.get("id") in os.environ["KEPT_IDS"].split():
        # Whoever asks must not be locked out half-way: ids of earlier answers are sent too.
        case.path_parameters["id"] = "00000000-0000-4000-8000-000000000000"


@schemathesis.hook  # pyright: ignore[reportUnknownMemberType] - its own type names no parameters
def filter_failure(
    context: schemathesis.HookContext,
    failure: Failure,
    case: Case[Any],
    response: schemathesis.Response,
) -> bool:
    """Return whether a finding counts: not if the document cannot express the rule."""
    if case.operation.path == "/login" and case.method.upper() == "GET":
        return False  # A person who opens the address of the sign-in is led to its page.
    if str(response.request.url).endswith("/None"):
        return False  # An item that was rejected has no signal, and so no id that leads to one.
    if not isinstance(failure, RejectedPositiveData) or response.status_code not in {400, 422}:
        return True
    answer = response.json()
    errors = [f"{it['pointer']} {it['code']}" for it in answer.get("errors", ())]
    if errors:
        return not all(BEYOND_SCHEMA.fullmatch(error) for error in errors)
    return REFUSALS.isdisjoint(answer.get(name) for name in ("type", "detail", "message"))
