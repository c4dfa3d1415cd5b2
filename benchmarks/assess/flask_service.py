"""An API on Flask, in memory."""

from __future__ import annotations

from typing import Any

from flask import Flask, Response, abort, jsonify, request

__all__ = ["app"]

app = Flask(__name__)
items: dict[int, Any] = {}


@app.post("/items")
def create() -> tuple[Response, int]:
    number = len(items) + 1
    items[number] = {"name": request.json["name"], "price": request.json["price"]}
    return jsonify(id=number, **items[number]), 201


@app.get("/items/<int:number>")
def read(number: int) -> Response:
    if number not in items:
        abort(404)
    return jsonify(items[number])
