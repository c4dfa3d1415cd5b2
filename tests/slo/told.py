"""A server that answers what the page asks of a Prometheus, or something of no use."""

from __future__ import annotations

import json
from http.server import BaseHTTPRequestHandler
from urllib.parse import parse_qs

from tests.slo.test_prometheus import sending

__all__ = ["Told"]

_VALUES = {
    "slo:objective:ratio": "0.99",
    "avg_over_time(slo:slice_bad:bool": "0.004",
    "count_over_time(slo:slice_bad:bool": "8640",
}
_AT = 1_790_000_000


class Told:
    """A Prometheus that knows one objective, of which 60 % of the budget is left.

    Attributes:
        url: Where it listens.
        broken: What it answers instead, if it is not empty.
    """

    def __init__(self) -> None:
        self.url = ""
        self.broken = ""

    def answer(self, to: BaseHTTPRequestHandler, form: str) -> None:
        """Answer one question."""
        is_line = to.path.endswith("query_range")
        found = _VALUES.get(parse_qs(form)["query"][0].split("{")[0])
        series: dict[str, object] = {"metric": {"service": "postfacta", "slo": "availability"}}
        if is_line:
            series["values"] = [[_AT, "0.1"], [_AT + 900_000, "0"], [_AT + 1_800_000, "0.2"]]
        else:
            series["value"] = [0, found]
        data = {
            "resultType": "matrix" if is_line else "vector",
            "result": [series] if is_line or found else [],
        }
        sending(self.broken or json.dumps({"status": "success", "data": data}))(to, form)
