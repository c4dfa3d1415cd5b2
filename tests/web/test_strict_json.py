"""Whatever the text is, it is a value that can be stored and encoded again, or it is refused in words for the client."""

from __future__ import annotations

import json
import sys
from typing import cast

import pytest
from hypothesis import example, given, strategies as st

from postfacta_web import strict_json
from postfacta_web.strict_json import MalformedJsonError
from tests.kit.every import every

TEXT = st.characters(codec="utf-8", exclude_characters="\0")
any_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(codec=None)),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(st.characters(codec=None)), inner),
)


@given(st.binary())
@example(b"\xff\xfe{\x00}\x00")
@example(b"[" * 100_000)
@example(b'{"a":' * 5_000 + b"1" + b"}" * 5_000)
@example(b"1" * 5_000)
@example(b"1e999")
@example(b"-Infinity")
def test_random_bytes_raise_nothing_but_its_error(content: bytes) -> None:
    try:
        parsed = strict_json.parse(content)
    except MalformedJsonError:
        return
    json.dumps(parsed, ensure_ascii=False, allow_nan=False).encode()


@given(any_json)
def test_random_json_raises_nothing_but_its_error(value: object) -> None:
    try:
        parsed = strict_json.parse(json.dumps(value).encode())
    except MalformedJsonError:
        return
    json.dumps(parsed, ensure_ascii=False, allow_nan=False).encode()  # it can be encoded and stored


NOT_STRICT = [
    b"{bad",
    b'{"a":1} trailing',
    b"{}{}",
    b"\xef\xbb\xbf{}",
    '{"a":1}'.encode("utf-16"),
    b'"\xed\xa0\x80"',
    b'"a\tb"',
    b'"a\\u0000b"',
    b'{"\\u0000":1}',
    b"NaN",
    b"[Infinity]",
    b"[1e400]",
    b"9" * 4301,
    b"[" * 101 + b"]" * 101,
    b"{'a':1}",
    b"\x0b{}",
]


def test_what_is_not_strict_json_is_malformed_and_the_words_are_ours() -> None:
    with every() as case:
        for content in NOT_STRICT:
            with case(content[:60]):
                with pytest.raises(MalformedJsonError) as caught:
                    strict_json.parse(content)
                assert "Expecting" not in str(caught.value)
                assert "codec" not in str(caught.value)


def test_a_blank_body_is_the_end_of_the_file() -> None:
    with every() as case:
        for content in [b"", b"  \r\n\t"]:
            with case(content), pytest.raises(MalformedJsonError, match=r"^EOF$"):
                strict_json.parse(content)


def test_each_lone_surrogate_becomes_one_replacement_character_and_pairs_stay() -> None:
    assert strict_json.parse(rb'{"\udc00":["\ud800\ud800x","\ud83d\ude00"]}') == {
        "\ufffd": ["\ufffd\ufffdx", "😀"]
    }


def test_a_repeated_key_stands_where_it_was_last_written() -> None:
    value = strict_json.parse(b'{"a":1,"A":2,"a":3}')
    assert isinstance(value, dict)
    assert list(cast("dict[str, int]", value).items()) == [("A", 2), ("a", 3)]


def test_a_hundred_levels_of_nesting_are_read() -> None:
    strict_json.parse(b"[" * 100 + b"]" * 100)


plain_json = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(TEXT),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(TEXT), inner),
)


@given(
    plain_json,
    st.sampled_from([(",", ":"), (", ", ": "), (" ,\n", "\t:\r\n")]),
    st.sampled_from(["ascii", "utf-8"]),
)
@example({'x":': '":', "a": ['\\":', r"\u0000", "\\\\ud800", "😀"]}, (",", ":"), "ascii")
@example({"a": [], "b": {}}, (",", ":"), "utf-8")
@example([1e308, -0.0, 10**400], (",", ":"), "utf-8")
def test_what_is_plain_is_read_as_it_was_written(
    value: object, separators: tuple[str, str], written: str
) -> None:
    text = json.dumps(value, separators=separators, ensure_ascii=written == "ascii").encode()
    assert repr(strict_json.parse(text)) == repr(value)


def test_texts_are_looked_through_only_where_one_may_be_odd(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    batch = {
        "items": [{"title": f"Déploy: {n}", "payload": {"a": [n, None, 0.5]}} for n in range(500)]
    }
    written = json.dumps(batch).encode()
    monkeypatch.setattr(json, "dumps", None)
    assert strict_json.parse(written) == batch


@pytest.mark.parametrize(
    "content",
    [
        b'{"items":[' + b"{}," * 1_390_000 + b"{}]}",
        b"[" + b'"",' * 1_390_000 + b'""]',
        b"[" + b"0," * 100_000 + b"0]",
        b"[" * 4_000_000,
    ],
    ids=["objects", "texts", "numbers", "nested"],
)
def test_too_many_values_are_refused_before_one_is_built(
    content: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(strict_json, "_DECODER", None)
    with pytest.raises(MalformedJsonError, match="more than 100,000 commas and brackets"):
        strict_json.parse(content)


@pytest.mark.parametrize("text", ["[,{" * 1_000_000, '",[\\' * 500_000])
def test_commas_and_brackets_within_texts_do_not_count(text: str) -> None:
    assert strict_json.parse(json.dumps({"a": text}).encode()) == {"a": text}


def test_a_service_may_allow_fewer_and_more_parts() -> None:
    assert strict_json.parse(b"[1,2,3]", most_parts=3) == [1, 2, 3]
    with pytest.raises(MalformedJsonError, match=r"^more than 2 commas and brackets$"):
        strict_json.parse(b"[1,2,3]", most_parts=2)
    assert strict_json.parse(b'["[,[,"]', most_parts=1) == ["[,[,"]
    assert strict_json.parse(b"[" + b"0," * 100_000 + b"0]", most_parts=100_001) == [0] * 100_001


@pytest.mark.parametrize("levels", [1, 2, 100, 500])
def test_a_service_may_allow_fewer_and_more_levels(levels: int) -> None:
    for opening, inner, closing in ((b"[", b"", b"]"), (b'{"a":', b"1", b"}")):
        strict_json.parse(opening * levels + inner + closing * levels, most_depth=levels)
        with pytest.raises(MalformedJsonError, match=r"^nested too deeply$"):
            strict_json.parse(
                opening * (levels + 1) + b"1" + closing * (levels + 1), most_depth=levels
            )


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b'{"a":\n1;}', "not JSON at line 2, column 2"),
        # Python 3.13 blames the comma, older ones what follows it.
        (b'{"a":\n1,}', f"not JSON at line 2, column {2 if sys.version_info >= (3, 13) else 3}"),
        (b"[-Infinity]", "-Infinity is not JSON"),
        (b"[1e400]", "a number is too large"),
        (b"9" * 4301, "a number is too large"),
        (b'"\\u0000"', "a text contains U+0000"),
        (b"\xff", "the text is not UTF-8"),
    ],
)
def test_the_error_says_what_is_wrong(content: bytes, words: str) -> None:
    with pytest.raises(MalformedJsonError) as caught:
        strict_json.parse(content)
    assert str(caught.value) == words
    assert caught.value.__suppress_context__ or caught.value.__context__ is None
