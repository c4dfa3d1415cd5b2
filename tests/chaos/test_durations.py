"""Only what Prometheus waits for gets shorter.

What it compares with, and what people read, stays.
"""

from __future__ import annotations

import pytest
import yaml

from chaos.durations import compress_expression, compress_rules, divide, seconds


@pytest.mark.parametrize(
    ("text", "length"),
    [
        ("30s", 30.0),
        ("5m", 300.0),
        ("1h30m", 5400.0),
        ("250ms", 0.25),
        ("3d", 259_200.0),
        ("0", 0.0),
    ],
)
def test_a_length_is_read(text: str, length: float) -> None:
    assert seconds(text) == length


@pytest.mark.parametrize("text", ["", "5", "m", "5 m", "five"])
def test_what_is_no_length_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(ValueError, match="write 30s, 5m or 1h30m"):
        seconds(text)


def test_a_length_is_divided_to_the_millisecond_and_never_to_nothing() -> None:
    assert divide("5m", 10) == "30000ms"
    assert divide("1h", 7) == "514286ms"
    assert divide("1ms", 60) == "1ms"
    assert divide("0s", 10) == "0s"


@pytest.mark.parametrize(
    ("expression", "shorter"),
    [
        ("rate(a[5m]) > 0.01", "rate(a[30000ms]) > 0.01"),
        ("max_over_time(rate(a[1m])[30m:15s])", "max_over_time(rate(a[6000ms])[180000ms:1500ms])"),
        ("a unless a offset 10m", "a unless a offset 60000ms"),
        ("a offset -1h", "a offset -360000ms"),
        # The name of a series, what is compared with, and what stands in quotes or in a comment are
        # no waits.
        ("slo:sli_error:ratio_rate5m > 300", "slo:sli_error:ratio_rate5m > 300"),
        ('a{window="[5m]",offset="offset 5m"}', 'a{window="[5m]",offset="offset 5m"}'),
        (
            "a{b='it\\'s [5m]'} # over [5m]\n + b[1m]",
            "a{b='it\\'s [5m]'} # over [5m]\n + b[6000ms]",
        ),
        ("min(age_seconds) > 600", "min(age_seconds) > 600"),
    ],
)
def test_windows_steps_and_offsets_get_shorter_and_nothing_else(
    expression: str, shorter: str
) -> None:
    assert compress_expression(expression, 10) == shorter


def test_the_waits_of_rules_get_shorter_and_their_words_do_not() -> None:
    rules = yaml.safe_load("""
groups:
  - name: one
    interval: 1m
    rules:
      - {record: "a:b", expr: "rate(a[5m])"}
      - alert: Odd
        expr: rate(a[5m]) > 1
        for: 10m
        keep_firing_for: 5m
        labels: {window: 5m, for: 10m}
        annotations: {summary: "For 10m, [5m]"}
""")
    assert compress_rules(rules, 10) == yaml.safe_load("""
groups:
  - name: one
    interval: 6000ms
    rules:
      - {record: "a:b", expr: "rate(a[30000ms])"}
      - alert: Odd
        expr: rate(a[30000ms]) > 1
        for: 60000ms
        keep_firing_for: 30000ms
        labels: {window: 5m, for: 10m}
        annotations: {summary: "For 10m, [5m]"}
""")
