"""Secrets are replaced as Kubernetes does it, under load, and the drill says what was seen."""

from __future__ import annotations

from pathlib import Path

import pytest

from chaos.rotation import Row, drill, replace_folder
from tests.kit.pg import open_folder


def test_all_files_of_a_folder_are_replaced_at_once_by_a_link(tmp_path: Path) -> None:
    replace_folder(tmp_path, {"a": "1", "b": "1"})
    first = (tmp_path / "..data").resolve()
    replace_folder(tmp_path, {"a": "2", "b": "2"})
    assert [(tmp_path / name).read_text() for name in "ab"] == ["2", "2"]
    assert all((tmp_path / name).is_symlink() for name in ("a", "b", "..data"))
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o600
    assert not first.exists()


@pytest.mark.parametrize(
    ("overlaps", "refused"), [(True, False), (False, True), (True, True), (None, True)]
)
def test_a_row_holds_if_the_former_secret_is_accepted_and_then_refused(
    *, overlaps: bool | None, refused: bool
) -> None:
    assert Row("metrics_token", 1.0, overlaps, refused).is_held is (
        overlaps is not False and refused
    )


@pytest.mark.long
def test_every_secret_is_replaced_without_a_failed_request(programs: None) -> None:
    with open_folder() as folder:
        rows, answers = drill(folder)
    assert {row.secret for row in rows} == {
        "password",
        "metrics_token",
        "traffic_key",
        "jwt_secret",
        "rate_store",
        "db_key",
    }
    assert all(row.is_held for row in rows)
    assert answers.keys() == {200, 201}
    assert answers.total() > 100
