"""What a person should decide by a date: `make proofs LIST=stale` and CI list what is overdue.

It fails nothing: a change of today must not be red because a day has passed.
"""

from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import Final

import yaml

from postfacta_app.flags import FLAGS

__all__ = ["POLICY", "overdue"]

POLICY: Final = Path(__file__).parents[2] / "deploy/slo/policy.yaml"


def overdue(today: date) -> list[str]:
    """Return a line for each decision whose last day is over, with who decides it and how."""
    lines = [
        f"flag {flag.name} of {flag.owner}: due on {flag.until}; remove it, or give it a new date"
        " and say why"
        for flag in FLAGS
        if flag.until < today
    ]
    policy = yaml.safe_load(POLICY.read_text(encoding="utf-8"))
    if policy["review_by"] < today:
        lines.append(
            f"error-budget policy of {policy['owner']}: due on {policy['review_by']}; read"
            " docs/error-budget-policy.md through, then set both dates in deploy/slo/policy.yaml"
        )
    return lines
