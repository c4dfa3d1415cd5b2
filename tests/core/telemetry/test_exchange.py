"""An exchange comes to one status and one error type, whatever happened on the way."""

from __future__ import annotations

from hypothesis import given, strategies as st

from postfacta_core.context import RequestContext
from postfacta_core.telemetry.exchange import ErrorTypes, Exchange, Recorder, SocketExchange
from tests.kit.every import every


class ClientDisconnect(Exception):  # noqa: N818 - Starlette's name for it
    """What a framework makes of a client that is gone."""


def exchange(
    *, status: int = 0, complete: bool = False, left: bool = False, declared: str = ""
) -> Exchange:
    request = RequestContext("an-id-of-some-kind", 0.0)
    request.error_type = declared
    made = Exchange(request, "GET", "/")
    made.status = status
    made.is_complete = complete
    if left:
        made.leave()
    return made


def test_what_was_seen_settles_the_status_and_the_error_type() -> None:
    cases: list[tuple[Exchange, Exception | None, bool, int, str]] = [
        (exchange(status=200, complete=True), None, False, 200, ""),
        (exchange(status=404, complete=True), None, False, 404, ""),
        (exchange(status=503, complete=True), None, False, 503, "503"),
        (
            exchange(status=503, complete=True, declared="pool_timeout"),
            None,
            False,
            503,
            "pool_timeout",
        ),
        (exchange(), ValueError(), False, 500, "ValueError"),
        (exchange(status=500, complete=True), ValueError(), False, 500, "ValueError"),
        (exchange(status=200), ValueError(), False, 200, "ValueError"),
        (exchange(left=True), ClientDisconnect(), False, 499, "client_disconnected"),
        (exchange(left=True), OSError(), False, 499, "client_disconnected"),
        (exchange(left=True), ValueError(), False, 500, "ValueError"),
        (exchange(), ClientDisconnect(), False, 500, "ClientDisconnect"),
        (exchange(left=True), None, False, 499, "client_disconnected"),
        (exchange(status=200, left=True), None, False, 499, "client_disconnected"),
        (exchange(status=200, complete=True, left=True), None, False, 200, ""),
        (exchange(status=200, complete=True, left=True), OSError(), False, 200, "OSError"),
        (exchange(), None, True, 499, "client_disconnected"),
        (exchange(status=200), None, True, 499, "client_disconnected"),
        (exchange(status=200, complete=True), None, True, 200, ""),
        (exchange(status=200, declared="deadline_exceeded"), None, False, 200, "deadline_exceeded"),
        (exchange(), None, False, 500, "500"),
        (exchange(status=200), None, False, 200, "incomplete_response"),
    ]
    with every() as case:
        for before, error, cancelled, status, error_type in cases:
            with case(before, error, cancelled, status, error_type):
                before.settle(error, ErrorTypes(), was_cancelled=cancelled)
                assert (before.status, before.error_type) == (status, error_type)
                assert (before.error is not None) == (error_type == type(error).__name__)


@given(st.lists(st.text(max_size=3)), st.integers(0, 5))
def test_error_types_never_grow_past_their_limit_and_never_change(
    names: list[str], limit: int
) -> None:
    types = ErrorTypes(limit)
    first = [types[name] for name in names]
    assert [types[name] for name in names] == first
    assert len({name for name in first if name} - {"_OTHER"}) <= limit


def test_the_librarys_own_words_find_room_in_a_full_set() -> None:
    types = ErrorTypes(0)
    assert types["ValueError"] == "_OTHER"
    assert types["pool_timeout"] == "pool_timeout"
    assert types[""] == ""


def test_what_fails_as_the_callers_time_is_up_is_the_callers() -> None:
    cases: list[tuple[float, float, Exception | None, int, str]] = [
        (1.0, 30.0, None, 499, "callers_deadline"),
        (1.09, 30.0, None, 499, "callers_deadline"),  # the share that a pool keeps
        (1.2, 30.0, None, 504, "deadline_exceeded"),  # a timeout within it
        (1.0, 1.0, None, 504, "deadline_exceeded"),
        (1.0, 30.0, ValueError(), 499, "callers_deadline"),
        (30.0, 1.0, ValueError(), 504, "ValueError"),
    ]
    with every() as case:
        for asked, limit, error, status, error_type in cases:
            with case(asked, limit, error, status, error_type):
                one = exchange(status=504, complete=True, declared="deadline_exceeded")
                one.request.caller_timeout, one.request.limit, one.seconds = asked, limit, 1.0
                one.settle(error, ErrorTypes())
                assert (one.status, one.error_type) == (status, error_type)


def test_a_crash_of_a_background_task_is_ours_whatever_the_caller_asked() -> None:
    one = exchange(status=200, complete=True)
    one.request.caller_timeout, one.request.limit, one.seconds = 1.0, 30.0, 1.0
    one.settle(ValueError(), ErrorTypes())
    assert (one.status, one.error_type) == (200, "ValueError")


def test_a_good_answer_to_a_hasty_caller_is_a_good_answer() -> None:
    one = exchange(status=200, complete=True)
    one.request.caller_timeout, one.request.limit, one.seconds = 1.0, 30.0, 1.0
    one.settle(None, ErrorTypes())
    assert (one.status, one.error_type) == (200, "")


def test_a_recorder_that_writes_no_part_changes_nothing() -> None:
    class Silent(Recorder):
        pass

    silent, seen = Silent(), exchange(status=200, complete=True)
    before = dict(vars(seen))
    for part in (silent.begin, silent.answered, silent.end):
        part(seen)
    assert dict(vars(seen)) == before
    socket = SocketExchange(RequestContext("an-id-of-some-kind", 0.0), "GET", "/")
    untouched = dict(vars(socket))
    for listen in (silent.connect, silent.opened, silent.closed):
        listen(socket)
    assert vars(socket) == untouched
