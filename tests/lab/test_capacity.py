"""The capacity model finds the parameters of services that are computed, and names none that it cannot know."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given, strategies as st

from postfacta_lab.capacity.command import command, fit, pool_for

COUNTS = (1.0, 2.0, 4.0, 8.0, 12.0, 16.0, 24.0, 32.0, 48.0)


def law(rate: float, contention: float, coherence: float, n: float) -> float:
    """Compute it beside the code under test."""
    return rate * n / (1 + contention * (n - 1) + coherence * n * (n - 1))


@given(st.floats(10.0, 1000.0), st.floats(0.02, 0.2), st.floats(0.0005, 0.01))
def test_the_parameters_of_exact_points_are_found(
    rate: float, contention: float, coherence: float
) -> None:
    found = fit([(n, law(rate, contention, coherence, n)) for n in COUNTS])
    assert found.rate == pytest.approx(rate, rel=1e-3)
    assert found.contention == pytest.approx(contention, rel=1e-2)
    assert found.coherence == pytest.approx(coherence, rel=1e-2)
    assert found.most_under_way == pytest.approx(math.sqrt((1 - contention) / coherence), rel=1e-2)


def test_standard_errors_cover_what_noise_does() -> None:
    true, inside, noise = (100.0, 0.05, 0.002), [0, 0, 0], random.Random(7)  # noqa: S311 - no secret
    for _ in range(200):
        points = [(n, law(*true, n) + noise.gauss(0, 5.0)) for n in COUNTS]
        found = fit(points)
        values = (found.rate, found.contention, found.coherence)
        for k in range(3):
            inside[k] += abs(values[k] - true[k]) <= 2.4 * found.errors[k]  # of Student's t at 6
    assert all(count > 180 for count in inside), inside


def test_a_service_that_scales_evenly_has_no_peak() -> None:
    noise = random.Random(3)  # noqa: S311 - no secret
    found = fit([(n, 50.0 * n * (1 + noise.gauss(0, 0.01))) for n in COUNTS])
    assert found.most_under_way is None
    assert found.at(10.0) == pytest.approx(500.0, rel=0.05)


def test_too_few_points_identify_nothing() -> None:
    points = [(n, law(100.0, 0.05, 0.002, n)) for n in COUNTS]
    assert fit(points[:5]).most_under_way is None
    assert set(fit(points[:3]).errors) == {math.inf}
    with pytest.raises(ValueError, match="at least three"):
        fit(points[:2])
    with pytest.raises(ValueError, match="too much alike"):
        fit(points[:2] * 3)


def test_a_pool_is_planned_by_what_it_holds() -> None:
    assert pool_for(100.0, 0.065) == 10
    assert pool_for(100.0, 0.0651) == 11
    assert pool_for(1.0, 0.0) == 1


def test_the_command_reads_runs_and_says_what_they_tell(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("postfacta_lab.engine.page.machine", lambda: {"cores": "2"})
    file, html = tmp_path / "load.json", tmp_path / "capacity.html"
    parts = [
        {"name": f"step {n}", "in_flight": n, "goodput": law(100.0, 0.05, 0.002, n)} for n in COUNTS
    ]
    file.write_text(
        json.dumps({"parts": [*parts, {"name": "above", "in_flight": 900.0, "goodput": 1.0}]})
    )
    words = [str(file), "--held", "0.02", "--html", str(html), "--price", "0.1"]
    done = CliRunner().invoke(command, words, standalone_mode=False)
    assert done.return_value == 0, done.output
    assert "peak: " in done.output
    assert "with 21.8 under way" in done.output
    assert "pool: " in done.output
    assert "cost: " in done.output
    roomy = CliRunner().invoke(
        command, [*words, "--pool", "20", "--replicas", "3", "--max-connections", "100"]
    )
    assert "connections: 86 may be open, 11 are free" in roomy.output
    assert "Residuals" in html.read_text()
    crowded = [*words, "--pool", "20", "--replicas", "5", "--max-connections", "100"]
    assert CliRunner().invoke(command, crowded, standalone_mode=False).return_value == 1
    file.write_text(json.dumps({"parts": parts[:4]}))
    assert CliRunner().invoke(command, [str(file)], standalone_mode=False).return_value == 2
    file.write_text("{}")
    assert CliRunner().invoke(command, [str(file)], standalone_mode=False).exception is not None
