"""A comparison is reported only by a machine without other work, and compares what logs with what logs."""

from __future__ import annotations

import pytest

from benchmarks.bench_incident import figures

NAMES = ("postfacta", "postfacta, no log", "by hand", "by hand, access log")


def a_round(*rates: float, busy: float = 0.95) -> dict[str, tuple[float, float, float]]:
    return {name: (rate, 1e6 / rate, busy) for name, rate in zip(NAMES, rates, strict=True)}


def test_what_logs_is_compared_with_what_logs() -> None:
    found = figures([a_round(300, 400, 1000, 600)] * 3)
    assert found["postfacta"]["ratio"] == 0.5
    assert found["postfacta, no log"]["ratio"] == 0.4
    assert found["postfacta"]["cpu_ratio"] == 0.5
    assert "ratio" not in found["by hand"]


def test_a_machine_with_other_work_tells_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    busy, idle = a_round(300, 400, 1000, 600), a_round(300, 400, 1000, 600, busy=0.12)
    with pytest.raises(SystemExit) as ended:
        figures([busy, idle, idle])
    assert ended.value.code == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert "0.12" in said.err
    assert "ratio" not in said.err
