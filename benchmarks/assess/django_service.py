"""An API on Django, in memory."""

# Django is installed for the assessment alone: no type checker finds it.
# mypy: ignore-errors
# pyright: basic, reportMissingImports=false

from __future__ import annotations

import json
from typing import Any

import django
from django.conf import settings
from django.core.handlers.wsgi import WSGIHandler
from django.http import Http404, JsonResponse
from django.urls import path
from django.views.decorators.csrf import csrf_exempt

__all__ = ["app", "urlpatterns"]

settings.configure(ROOT_URLCONF=__name__, ALLOWED_HOSTS=["*"], SECRET_KEY="only-of-a-benchmark")  # noqa: S106 - of nothing
django.setup()
items: dict[int, Any] = {}


@csrf_exempt
def create(request: Any) -> Any:
    given = json.loads(request.body)
    number = len(items) + 1
    items[number] = {"name": given["name"], "price": given["price"]}
    return JsonResponse({"id": number, **items[number]}, status=201)


def read(request: Any, number: int) -> Any:
    if number not in items:
        raise Http404
    return JsonResponse(items[number])


urlpatterns = [path("items", create), path("items/<int:number>", read)]
app = WSGIHandler()
