"""Finds the experiments on PostFacta by their ids."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

__all__ = ["EXPERIMENTS", "find"]

EXPERIMENTS = Path(__file__).parent / "experiments"


def find(wanted: Sequence[str] = ()) -> list[Path]:
    """Find experiments by their ids or their files, all of ours without any.

    Raises:
        ValueError: One is not known, or its file is not there.
    """
    known = {path.name.partition("-")[0]: path for path in sorted(EXPERIMENTS.glob("*.yaml"))}
    files = {
        name: Path(name).absolute()
        for name in wanted
        if Path(name).suffix in {".yaml", ".yml", ".json"}
    }
    if strangers := [name for name in wanted if name not in known and name not in files]:
        raise ValueError(
            f"no experiment is called {strangers[0]}: there are {', '.join(known)} and durability, "
            "or name a file of your own (.yaml, .yml, .json)"
        )
    if missing := [name for name, path in files.items() if not path.is_file()]:
        raise ValueError(f"there is no file {missing[0]}")
    known |= files
    return [known[name] for name in wanted] if wanted else list(known.values())
