"""Whatever a client sends, its conditions are judged, or refused in words that repeat nothing of them."""

from __future__ import annotations

import copy
import pickle
import time
from collections.abc import Callable

import pytest
from hypothesis import given, strategies as st
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from postfacta_core.testing import call_asgi
from postfacta_web.conditional import (
    ConditionError,
    check_if_match,
    idempotency_key,
    is_not_modified,
)
from tests.kit.every import every


def a_request(*headers: tuple[str, str]) -> Request:
    raw = [(name.lower().encode(), value.encode("latin-1")) for name, value in headers]
    return Request(
        {"type": "http", "method": "POST", "path": "/", "headers": raw, "query_string": b""}
    )


def refused(judge: Callable[[], object]) -> ConditionError | None:
    try:
        judge()
    except ConditionError as refusal:
        return refusal
    return None


@given(st.text(st.characters(max_codepoint=255, exclude_characters="\r\n")))
def test_random_headers_raise_nothing_but_a_condition_error(text: str) -> None:
    request = a_request(("If-Match", text), ("If-None-Match", text), ("Idempotency-Key", text))
    refusals = (
        refused(lambda: idempotency_key(request)),
        refused(lambda: check_if_match(request, '"1"')),
        refused(lambda: is_not_modified(request, '"1"')),
    )
    assert all(refusal is None or refusal.status_code in {400, 412} for refusal in refusals)


def test_if_match_lets_the_current_version_pass() -> None:
    with every() as case:
        for header in ['"7"', "*", '"6", "7"', '"6","7"', ' "7" ', '"7",', 'W/"7", "7"']:
            with case(header):
                check_if_match(a_request(("If-Match", header)), '"7"')


def test_if_match_refuses_other_versions_and_names_the_current_one() -> None:
    with every() as case:
        for header in ['"6"', 'W/"7"', '"a", "b"', '""']:
            with case(header):
                with pytest.raises(ConditionError) as caught:
                    check_if_match(a_request(("If-Match", header)), '"7"')
                assert (caught.value.status_code, caught.value.headers) == (412, {"ETag": '"7"'})
                assert caught.value.detail == "It has changed: read it again, then retry"


def test_a_weak_version_is_never_the_one_to_change() -> None:
    with pytest.raises(ConditionError) as caught:
        check_if_match(a_request(("If-Match", 'W/"7"')), 'W/"7"')
    assert caught.value.status_code == 412
    check_if_match(a_request(("If-Match", "*")), 'W/"7"')


def test_a_change_without_if_match_is_refused() -> None:
    with pytest.raises(ConditionError) as caught:
        check_if_match(a_request(("If-None-Match", "*")), '"7"')
    assert (caught.value.status_code, caught.value.headers) == (428, None)
    assert caught.value.detail == "Send If-Match with the ETag of the version you change"


MALFORMED = [
    "", " ", "7", '"7', '"7" "8"', '*, "7"', "*,", 'w/"7"', ', "7"', '"7\x7f"', '"a b"', '"7"' + " " * 8_000 + "x",
]  # fmt: skip


def test_an_entity_tag_without_quotes_is_malformed() -> None:
    with every() as case:
        for header in MALFORMED:
            for name, judge in (("If-Match", check_if_match), ("If-None-Match", is_not_modified)):
                with case(name, header[:60]):
                    with pytest.raises(ConditionError) as caught:
                        judge(a_request((name, header)), '"7"')
                    assert (caught.value.status_code, caught.value.headers) == (400, None)
                    words = f'{name}: an entity tag must be in double quotes, as in "inc-3"'
                    assert caught.value.detail == words


WEAK_MATCHES = [('"7"', True), ('W/"7"', True), ("*", True), ('"6"', False), ('"6", "7"', True)]


def test_if_none_match_compares_weakly() -> None:
    with every() as case:
        for header, known in WEAK_MATCHES:
            with case(header, known):
                assert is_not_modified(a_request(("If-None-Match", header)), '"7"') is known
                assert is_not_modified(a_request(("If-None-Match", header)), 'W/"7"') is known
    assert not is_not_modified(a_request(("If-Match", "*")), '"7"')


def test_a_repeated_header_is_one_list_of_tags() -> None:
    check_if_match(a_request(("If-Match", '"6"'), ("If-Match", '"7"')), '"7"')
    assert is_not_modified(
        a_request(("If-None-Match", '"6"'), ("If-None-Match", 'W/"7", "8"')), '"7"'
    )
    with pytest.raises(ConditionError, match="If-Match: an entity tag"):
        check_if_match(a_request(("If-Match", "*"), ("If-Match", '"7"')), '"7"')


def test_a_tag_may_hold_bytes_beyond_ascii() -> None:
    header = ("If-Match", '"caf\xe9"')
    check_if_match(a_request(header), '"caf\xe9"')
    with pytest.raises(ConditionError):
        check_if_match(
            a_request(header), '"cafe\u0301\ud800"'
        )  # such an ETag names nothing that was sent


KEYS = [
    ("abc", "abc"),
    ('"abc"', "abc"),
    (r'"a\"b\\ c"', r'a"b\ c'),
    ("k" * 255, "k" * 255),
    ("a;b", "a;b"),
]


def test_an_idempotency_key_is_read_quoted_or_bare() -> None:
    with every() as case:
        for header, key in KEYS:
            with case(header, key):
                assert idempotency_key(a_request(("Idempotency-Key", header))) == key
    assert idempotency_key(a_request()) is None


def test_an_idempotency_key_of_other_characters_or_lengths_is_malformed() -> None:
    with every() as case:
        for header in [
            "",
            '""',
            '"abc',
            "k" * 256,
            "ä",
            "a b",
            r'"a\b"',
            "\x7f",
            f'"{"k" * 256}"',
            '"a";b',
            "a\0",
        ]:
            with case(header[:60]):
                with pytest.raises(ConditionError) as caught:
                    idempotency_key(a_request(("Idempotency-Key", header)))
                words = "Idempotency-Key must be 1 to 255 visible ASCII characters, given once"
                assert (caught.value.status_code, caught.value.detail) == (400, words)


def test_two_idempotency_keys_are_malformed() -> None:
    with every() as case:
        for second in ("a", "b", ""):
            with case(second), pytest.raises(ConditionError, match="given once"):
                idempotency_key(a_request(("Idempotency-Key", "a"), ("Idempotency-Key", second)))


def test_an_error_can_be_copied_to_another_process() -> None:
    error = ConditionError(412, "It has changed", {"ETag": '"7"'})
    for again in (copy.copy(error), pickle.loads(pickle.dumps(error))):  # noqa: S301 - its own bytes
        assert (again.status_code, again.detail, again.headers) == (
            412,
            "It has changed",
            {"ETag": '"7"'},
        )


HOSTILE: dict[str, Callable[[int], tuple[str, str]]] = {
    "tags": lambda size: ("If-Match", ", ".join(f'"{n:05}"' for n in range(size // 9))),
    "open tags": lambda size: ("If-Match", '"a",' * (size // 4) + '"'),
    "spaces": lambda size: ("If-Match", '"a"' + " " * size + "x"),
    "commas": lambda size: ("If-Match", '"a"' + " , " * (size // 3)),
    "quotes": lambda size: ("If-Match", '"' * size + "x"),
    "a long tag": lambda size: ("If-Match", '"' + "a" * size),
    "a long key": lambda size: ("Idempotency-Key", '"' + "\\\\" * (size // 2)),
    "a long bare key": lambda size: ("Idempotency-Key", "a" * size),
}


def seconds(header: tuple[str, str]) -> float:
    request = a_request(header)
    began = time.process_time()
    refused(lambda: check_if_match(request, '"b"'))
    refused(lambda: idempotency_key(request))
    return time.process_time() - began


def test_the_time_is_linear_in_the_length_of_a_header() -> None:
    with every() as case:
        for name, header in HOSTILE.items():
            with case(name):
                # It takes 10 ms of this process's CPU; what is quadratic takes minutes.
                assert seconds(header(100_000)) < 0.5


async def test_a_framework_answers_the_error_with_its_status_words_and_headers() -> None:
    async def change(request: Request) -> Response:
        check_if_match(request, '"7"')
        return JSONResponse(idempotency_key(request), headers={"etag": '"8"'})

    app = Starlette(routes=[Route("/", change, methods=["PUT"])])
    answers = [
        await call_asgi(app, "PUT", "/", headers=headers)
        for headers in (
            [("if-match", '"7"'), ("idempotency-key", '"k 1"')],
            [("if-match", '"6"')],
            [],
            [("if-match", "7")],
        )
    ]
    assert [answer.status for answer in answers] == [200, 412, 428, 400]
    assert [answer.header("etag") for answer in answers] == ['"8"', '"7"', None, None]
    assert answers[0].json() == "k 1"
    assert answers[1].body == b"It has changed: read it again, then retry"
