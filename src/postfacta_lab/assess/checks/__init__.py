"""The checks, as `rubric.toml` describes them, in the order in which they are done.

What a burst would change comes first.
"""

from importlib import import_module

from ..model import GROUPS

__all__ = ["GROUPS"]

for _name in ("telemetry", "requests", "files", "lifecycle", "streams", "stress"):
    import_module(f"{__name__}.{_name}")
