"""The options of `harden`, checked where they are given."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from os import PathLike
from typing import Any, Final, Self, cast

from ..deadlines._transfer import TransferLimits
from ..drain._course import DrainLimits
from ..events import Mode
from ..limits._address import TrustedProxies
from ..limits._overload import OverloadConfig, Priority
from ..limits.store import SharedStore
from ..validation import validation
from ._concurrency import PriorityOf
from ._cors import Cors
from ._environment import read_options
from ._ratelimit import RateLimit, check_rate_limits
from ._rules import Timeout, check_route
from ._secret import Secret
from ._settings import settings
from ._types import Scope


@dataclass(frozen=True, slots=True, kw_only=True)
class RouteOptions:
    """The options of some routes: what is None is as `HardenOptions` says.

    Attributes:
        routes: Such as `GET /items/{id}`, where `{id}` stands for one part of the path and `{rest:path}` for all that is
            left; without a method for any. GET means HEAD too, and WebSockets. Slashes at the end of a path, and runs of
            them, make no difference.
        limits: The largest headers and body.
        request_timeout: Seconds from a request's beginning until it is cancelled; `math.inf` for any number.
        stream_timeout: The same for a response in pieces, once the first is sent.
        cancel_on_disconnect: Whether a handler is cancelled when its client goes away.
        priority: How much a request matters, if neither `priority_of` nor its caller says so.
        rate_limits: In place of those for all routes; empty for none. Equal limits of several routes are one.
    """

    routes: Sequence[str]
    limits: TransferLimits | None = None
    request_timeout: float | None = None
    stream_timeout: float | None = None
    cancel_on_disconnect: bool | None = None
    priority: Priority | None = None
    rate_limits: Sequence[RateLimit | str] | None = None

    def __post_init__(self) -> None:
        for route in validation.texts("RouteOptions.routes", self.routes, example='["GET /items/{id}"]'):
            check_route("RouteOptions.routes", route)
        for field_name, kind in (("limits", TransferLimits), ("priority", Priority)):
            if (value := getattr(self, field_name)) is not None:
                validation.instance(f"RouteOptions.{field_name}", value, kind, example="None")
        for field_name in ("request_timeout", "stream_timeout"):
            if (value := getattr(self, field_name)) is not None:
                validation.seconds(f"RouteOptions.{field_name}", value, finite=False, example="5.0")
        if self.cancel_on_disconnect is not None:
            validation.flag("RouteOptions.cancel_on_disconnect", self.cancel_on_disconnect)
        if self.rate_limits is not None:
            check_rate_limits("RouteOptions.rate_limits", self.rate_limits)


_MAY_BE_NONE: Final = frozenset({"rate_limit_store", "cors"})
# Options that are of a class, and how one is made.
_KINDS: Final[tuple[tuple[str, type[object], str], ...]] = (
    ("limits", TransferLimits, "TransferLimits(max_body_bytes=1_048_576)"),
    ("rate_limit_store", SharedStore, "SharedStore('async+valkey://valkey:6379')"),
    ("concurrency", OverloadConfig, "OverloadConfig()"),
    ("drain", DrainLimits, "DrainLimits(drain_delay=5.0)"),
    ("cors", Cors, 'Cors(allow_origins=["https://app.example.org"])'),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class HardenOptions:
    """The options of a service; the defaults suit production.

    Attributes:
        limits: The largest headers and body, for all requests or by scope.
        routes: What some routes are given instead; the first that matches a request counts, and it is looked up without
            calling a function. Else an option may be a function of the scope, where that is said.
        request_timeout: Seconds from a request's beginning until it is cancelled; None for any number, or a
            function that tells them of a scope. A handler may have its own: `deadlines.requests.time_limit`.
        stream_timeout: The same for a response in pieces, once the first is sent.
        cancel_on_disconnect: Whether a handler is cancelled when its client goes away, or a function of the scope.
        rate_limits: How much each caller may ask for, such as `100/minute per client`; by default without bound.
        rate_limit_store: Shared by several processes; by default each counts by itself. It is opened and closed here.
        trusted_proxies: Networks whose `X-Forwarded-For` names the client; by default none is trusted.
        shedding: Whether requests that cannot be served in time are refused early; in `shadow` they are counted.
        concurrency: What the limit on requests under way starts from; it finds its level from what is finished.
        priority_of: Returns for a scope how much a request matters; None for `critical`.
        priority_key: Lets a caller that knows it set `X-Priority`; empty trusts no caller.
        drain: How long the parts of a drain may take.
        dev: Whether this is a developer's machine, with no load balancer to wait for: then a drain has no delay. It
            has none either after Ctrl-C at a terminal, and under `uvicorn --reload`.
        cors: Which pages of other origins may read the answers, refusals among them; None if the application decides
            that by itself, for its own answers.
        response_headers: Given to every response that does not set them itself.
        metrics_path: Where the metrics are.
        metrics_token: The bearer token that a scrape must bring; empty asks for none. Or a function that returns all
            that hold now, so that it can be replaced in a running service.
        allow_metrics: Decides for each scrape whether it may read at all, beside the token; by default each may.
        metrics_workers: A folder that all workers share, if the server runs several; see `MetricsEndpoint`.
        health_prefix: Where the probes are.
        allow_health_detail: Decides which callers see the checks by name.
        traffic_key: Makes `X-Traffic-Class` trusted; empty trusts no caller. Or a function, as for `metrics_token`.
        quiet: More paths that get no span and no access line.
        access_lines: How many ordinary access lines a second are written before they are sampled; None for all.
    """

    limits: TransferLimits | Callable[[Scope], TransferLimits] = field(default_factory=TransferLimits)
    routes: Sequence[RouteOptions] = ()
    request_timeout: Timeout = 30.0
    stream_timeout: float | None = None
    cancel_on_disconnect: bool | Callable[[Scope], bool] = False
    rate_limits: Sequence[RateLimit | str] = ()
    rate_limit_store: SharedStore | None = None
    trusted_proxies: Sequence[str] | TrustedProxies = ()
    shedding: Mode | str = Mode.ENFORCE
    concurrency: OverloadConfig = field(default_factory=OverloadConfig)
    priority_of: PriorityOf | None = None
    priority_key: str = field(default="", repr=False)
    drain: DrainLimits = field(default_factory=DrainLimits)
    dev: bool = False
    cors: Cors | None = None
    response_headers: Sequence[tuple[str, str]] = (("x-content-type-options", "nosniff"),)
    metrics_path: str = "/metrics"
    metrics_token: Secret = field(default="", repr=False)
    allow_metrics: Callable[[Scope], bool] | None = None
    metrics_workers: str | PathLike[str] = ""
    health_prefix: str = "/healthz"
    allow_health_detail: Callable[[Scope], bool] | None = None
    traffic_key: Secret = field(default="", repr=False)
    quiet: Collection[str] = ()
    access_lines: int | None = 100

    def __post_init__(self) -> None:
        for option, kind, example in _KINDS:
            given = getattr(self, option)
            if not (given is None and option in _MAY_BE_NONE) and not (
                option == "limits" and callable(given)
            ):
                validation.instance(f"HardenOptions.{option}", given, kind, example=example)
        self._check_routes()
        settings.limit("HardenOptions.request_timeout", self.request_timeout)
        if self.stream_timeout is not None:
            validation.seconds("HardenOptions.stream_timeout", self.stream_timeout, example="600.0, or None")
        settings.switch("HardenOptions.cancel_on_disconnect", self.cancel_on_disconnect)
        self._check_rates()
        object.__setattr__(self, "shedding", validation.choice("HardenOptions.shedding", self.shedding, Mode))
        validation.flag("HardenOptions.dev", self.dev, example="dev=True")
        settings.headers("HardenOptions.response_headers", self.response_headers)
        validation.secret("HardenOptions.priority_key", self.priority_key, example="a text, or leave it out")
        for key in ("metrics_token", "traffic_key"):
            settings.secret(f"HardenOptions.{key}", getattr(self, key))
        for function in ("priority_of", "allow_health_detail", "allow_metrics"):
            settings.function_or_none(f"HardenOptions.{function}", getattr(self, function))
        self._check_paths()
        if self.access_lines is not None:
            validation.whole("HardenOptions.access_lines", self.access_lines, example="100, or None for all")

    def _check_routes(self) -> None:
        example = '[RouteOptions(routes=["GET /export"], request_timeout=120)]'
        given = cast("object", self.routes)
        if isinstance(given, str) or not isinstance(given, Sequence):
            validation.refuse("HardenOptions.routes", given, "a list of RouteOptions", example=example)
        listed: set[str] = set()
        for each in self.routes:
            validation.instance("HardenOptions.routes", each, RouteOptions, example=example)
            for route in each.routes:
                if route in listed:
                    validation.refuse(
                        "HardenOptions.routes", route, "in one RouteOptions only", example=example
                    )
                listed.add(route)

    @property
    def all_rate_limits(self) -> list[RateLimit | str]:
        """The limits of all routes and those of some, each of them once."""
        found = list(self.rate_limits)
        for each in self.routes:
            found += [limit for limit in each.rate_limits or () if limit not in found]
        return found

    def _check_rates(self) -> None:
        check_rate_limits("HardenOptions.rate_limits", self.rate_limits)
        for limit in check_rate_limits("HardenOptions.rate_limits", self.all_rate_limits):
            if limit.per in {"principal", "route"}:
                validation.refuse(
                    "HardenOptions.rate_limits",
                    f"{limit.rate} per {limit.per}",
                    f"per client, global or a function, as the {limit.per} is unknown before the application runs",
                    example="RateLimit('100/minute', per=api_key_of, name='api-key')",
                )
        if self.rate_limit_store is not None and not self.all_rate_limits:
            validation.refuse(
                "HardenOptions.rate_limits",
                self.rate_limits,
                "set where there is a rate_limit_store, which nothing uses otherwise",
                example="['100/minute per client']",
            )
        if not isinstance(self.trusted_proxies, TrustedProxies):
            TrustedProxies(self.trusted_proxies)

    def _check_paths(self) -> None:
        settings.path("HardenOptions.metrics_path", self.metrics_path, example='"/metrics"')
        settings.prefix("HardenOptions.health_prefix", self.health_prefix)
        if self.metrics_path in self.probes:
            validation.refuse(
                "HardenOptions.metrics_path",
                self.metrics_path,
                "another path than the probes'",
                example='"/metrics"',
            )
        if not isinstance(self.metrics_workers, PathLike):
            validation.text("HardenOptions.metrics_workers", self.metrics_workers, example='"/run/billing"')
        for each in validation.texts("HardenOptions.quiet", self.quiet, example='["/ping"]'):
            settings.path("HardenOptions.quiet", each, example='["/ping"]')

    @property
    def probes(self) -> tuple[str, ...]:
        """The paths of the probes."""
        return tuple(f"{self.health_prefix}/{name}" for name in ("live", "ready", "startup", "deps"))

    @classmethod
    def from_env(cls, prefix: str, environ: Mapping[str, str] | None = None, **given: Any) -> Self:
        """Read options from environment variables: with the prefix `BILLING_`, `BILLING_REQUEST_TIMEOUT=10`.

        A variable is named as its option; those of `limits`, `concurrency`, `drain` and `cors` have its
        name before their own: `BILLING_LIMITS_MAX_BODY_BYTES`, `BILLING_DRAIN_TIMEOUT`, `BILLING_CORS_ALLOW_ORIGINS`.
        Lists have commas, `response_headers` a header a line, `none` is None, and a store is its address.

        Args:
            prefix: Of the names, with its underscore.
            environ: By default the process's environment.
            given: Options from the code, among them functions, which no variable can say. The environment wins.

        Raises:
            ValueError: If a value is wrong, or a name is nearly that of an option.
        """
        validation.text("HardenOptions.from_env.prefix", prefix, empty=False, example='"BILLING_"')
        return read_options(cls, prefix, os.environ if environ is None else environ, given=given)
