"""The options of `harden`, checked where they are given."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import Field, dataclass, field, fields, replace
from difflib import get_close_matches
from functools import partial
from os import PathLike
from typing import Any, Final, Literal, Self, TypeVar, cast

from ..deadlines._limits import TransferLimits
from ..drain._course import DrainLimits
from ..events import Mode
from ..limits._overload import OverloadConfig
from ..limits._waiting import Priority
from ..limits.address import TrustedProxies
from ..limits.rate import Store, check_store
from ..limits.streams import StreamLimits
from ..validation import validation
from ._concurrency import PriorityOf as PriorityOf
from ._cors import EXAMPLE, Cors
from ._ratelimit import RateLimit, check_rate_limits
from ._rules import check_route
from ._settings import RULES, Check, Secret, instance_of, or_none
from ._types import Scope
from .parts import Part

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class RouteOptions:
    """The options of some routes: what is None is as `HardenOptions` says.

    Attributes:
        routes: Such as `GET /items/{id}`, where `{id}` is one part of the path and `{rest:path}`
            all that is left; without a method for any. GET means HEAD too, and WebSockets. Slashes
            at the end of a path, and runs of them, make no difference, unless these options grant
            more than others have: without a rate limit, or at the priority `CRITICAL_PLUS`, a route
            is its path as it is written here.
        limits: The largest headers and body.
        request_timeout: Seconds from a request's beginning until it is cancelled; `math.inf` for
            any number.
        stream_timeout: The same for a response in pieces, once the first is sent.
        stream_idle: Seconds for which the application of such a response may send nothing, from its
            first piece on: what is silent for longer is ended unfinished, with the error type
            `stream_idle`. Comments of event streams count as nothing. None for any number.
        heartbeat: Seconds after which an event stream that sends nothing gets a comment between two
            events, since most proxies end what is silent for a minute. None for no comments.
        cancel_on_disconnect: Whether a handler is cancelled when its client goes away.
        drain: How a drain ends a response or WebSocket. `finish`: it has `drain_timeout`, and what
            is cut then is left unfinished. `farewell`: events end after the `drain_delay` between
            two of them, with a `retry:` of 1 to 5 seconds, and WebSockets with code 1012; all else
            finishes. `cut`: after the `drain_delay`. None is `farewell` for WebSockets and for the
            GET of an EventSource, which resumes by itself: with `Accept: text/event-stream`, and
            `Cache-Control: no-cache`, `Last-Event-ID` or `Mcp-Session-Id`. It is `finish` for all
            else.
        drain_timeout: Seconds after the `drain_delay` in which its requests may end; at most, and
            by default, `DrainLimits.drain_timeout`.
        priority: How much a request matters, if neither `priority_of` nor its caller says so.
        shedding: Whether its requests are refused early; `off` does not count them in the limiter
            at all.
        waits: Whether its requests wait without working, such as long polls: they are admitted as
            others, and hold no slot of the limiter while they run. `aside` does the same for a part
            of a handler.
        rate_limits: In place of those for all routes; empty for none. Equal limits of several
            routes are one.
    """

    routes: Sequence[str]
    limits: TransferLimits | None = None
    request_timeout: float | None = None
    stream_timeout: float | None = None
    stream_idle: float | None = None
    heartbeat: float | None = None
    cancel_on_disconnect: bool | None = None
    drain: Literal["finish", "farewell", "cut"] | None = None
    drain_timeout: float | None = None
    priority: Priority | None = None
    shedding: Mode | str | None = None
    waits: bool = False
    rate_limits: Sequence[RateLimit | str] | None = None

    def __post_init__(self) -> None:
        for route in validation.texts(
            "RouteOptions.routes", self.routes, example='["GET /items/{id}"]'
        ):
            check_route("RouteOptions.routes", route)
        for name in (option.name for option in fields(self)[1:]):
            or_none(_OF_ROUTES.get(name) or _RULES[name])(
                f"RouteOptions.{name}", getattr(self, name)
            )
        if self.drain == "cut" and self.drain_timeout is not None:
            rule = "None for a route with drain='cut', which has no time"
            validation.refuse(
                "RouteOptions.drain_timeout", self.drain_timeout, rule, example="drain='finish'"
            )


_TIME: Final = partial(validation.seconds, finite=False)
_OF_ROUTES: Final[Mapping[str, Check]] = {
    "request_timeout": _TIME,
    "stream_timeout": _TIME,
    "stream_idle": validation.seconds,
    "heartbeat": validation.seconds,
    "drain": partial(validation.one_of, options=("finish", "farewell", "cut")),
    "drain_timeout": validation.seconds,
    "priority": instance_of(Priority, "Priority.SHEDDABLE"),
    "shedding": partial(validation.choice, kind=Mode),
    "waits": validation.flag,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class HardenOptions:
    """The options of a service; the defaults suit production.

    Attributes:
        limits: The largest headers and body.
        routes: What some routes are given instead; the first that matches a request counts.
        request_timeout: Seconds from a request's beginning until it is cancelled; None for any
            number. A handler may have its own: `deadlines.requests.time_limit`.
        stream_timeout: The same for a response in pieces, once the first is sent.
        cancel_on_disconnect: Whether a handler is cancelled when its client goes away, from 0.2
            seconds on.
        rate_limits: How much each caller may ask for, such as `100/minute per client`; by default
            without bound.
        rate_limit_store: Shared by several processes; by default each counts by itself. It is
            opened and closed here.
        trusted_proxies: Networks whose `X-Forwarded-For` names the client; by default none is
            trusted.
        trusted_traces: Networks of the peers whose `traceparent` a request's trace follows, and
            `unix`; by default none: a request then has a trace of its own, with a link to its
            caller's. A peer is who opened the connection: list no proxy that hands on what its
            clients send.
        shedding: Whether requests that cannot be served in time are refused early; in `shadow` they
            are counted.
        concurrency: What the limit on requests under way starts from; it finds its level from what
            is finished.
        priority_of: Returns for a scope how much a request matters; None for `critical`.
        priority_key: A caller that gives this secret in `X-Priority-Key` may say in `X-Priority`
            how much its request matters: `critical_plus`, `critical`, `sheddable_plus` or
            `sheddable`. Empty trusts no caller.
        streams: How many event streams and WebSockets may be open at once.
        drain: How long the parts of a drain may take.
        work_at_once: How many pieces of work that `spawn` began run at once; more are refused.
        cover_tasks: Whether a drain waits for tasks of asyncio that requests made by themselves, as
            by `asyncio.create_task`, and cancels them at its limit. It then waits for those of a
            client or pool that a request opened, too.
        dev: Whether this is a developer's machine, with no load balancer to wait for: then a drain
            has no delay. It has none either after Ctrl-C at a terminal, and under `uvicorn
            --reload`.
        cors: Which pages of other origins may read the answers, refusals among them; None if the
            application decides that by itself: then the rules of its own middleware, where they can
            be read, count for refusals too.
        request_id_header: Whether the application finds the request's id among the headers of the
            request too, as `X-Request-ID`, where its caller sent none or an invalid one. It is
            always in `RequestContext` and the response.
        response_headers: Given to every response that does not set them itself.
        metrics_path: Where the metrics are.
        metrics_token: The bearer token that a scrape must bring; empty asks for none. Or a function
            that returns all that hold now, so that it can be replaced in a running service.
        allow_metrics: Decides for each scrape whether it may read at all, beside the token; by
            default each may.
        metrics_workers: A folder that all workers share, if the server runs several: then a scrape
            of one of them shows all, each with its number in the label `worker`. Without one, each
            worker shows itself.
        health_prefix: Where the probes are, below the server's `root_path`; such as `/healthz`, or
            empty.
        allow_health_detail: Returns whether a request may see the checks by name; all others get a
            404, and so do all if it raises. None leaves that path to the application.
        traffic_key: Makes `X-Traffic-Class` trusted; empty trusts no caller. Or a function, as for
            `metrics_token`.
        parts: Rules of a team's own, asked in this order before a request takes a slot.
        quiet: More paths that get no span and no access line.
        access_lines: How many ordinary access lines a second are written before they are sampled;
            None for all.
    """

    limits: TransferLimits = field(default_factory=TransferLimits)
    routes: Sequence[RouteOptions] = ()
    request_timeout: float | None = 30.0
    stream_timeout: float | None = None
    cancel_on_disconnect: bool = False
    rate_limits: Sequence[RateLimit | str] = ()
    rate_limit_store: Store | None = None
    trusted_proxies: Sequence[str] = ()
    trusted_traces: Sequence[str] = ()
    shedding: Mode | str = Mode.ENFORCE
    concurrency: OverloadConfig = field(default_factory=OverloadConfig)
    priority_of: PriorityOf | None = None
    priority_key: str = field(default="", repr=False)
    streams: StreamLimits = field(default_factory=StreamLimits)
    drain: DrainLimits = field(default_factory=DrainLimits)
    work_at_once: int = 1000
    cover_tasks: bool = False
    dev: bool = False
    cors: Cors | None = None
    request_id_header: bool = False
    response_headers: Sequence[tuple[str, str]] = (("x-content-type-options", "nosniff"),)
    metrics_path: str = "/metrics"
    metrics_token: Secret = field(default="", repr=False)
    allow_metrics: Callable[[Scope], bool] | None = None
    metrics_workers: str | PathLike[str] = ""
    health_prefix: str = "/healthz"
    allow_health_detail: Callable[[Scope], bool] | None = None
    traffic_key: Secret = field(default="", repr=False)
    parts: Sequence[Part] = ()
    quiet: Collection[str] = ()
    access_lines: int | None = 100

    def __post_init__(self) -> None:
        for option, check in _RULES.items():
            check(f"HardenOptions.{option}", getattr(self, option))
        object.__setattr__(
            self, "shedding", validation.choice("HardenOptions.shedding", self.shedding, Mode)
        )
        check_rate_limits("HardenOptions.rate_limits", self.all_rate_limits)
        if self.rate_limit_store is not None and not self.all_rate_limits:
            rule = "set where there is a rate_limit_store, which nothing uses otherwise"
            validation.refuse(
                "HardenOptions.rate_limits", self.rate_limits, rule, example="['100/minute']"
            )
        for route in self.routes:
            if (seconds := route.drain_timeout or 0.0) > self.drain.drain_timeout:
                most = (
                    "at most the drain_timeout of HardenOptions.drain,"
                    f" {self.drain.drain_timeout:g} s"
                )
                example = f"DrainLimits(drain_timeout={seconds:g})"
                validation.refuse("RouteOptions.drain_timeout", seconds, most, example=example)
        if self.metrics_path in self.probes:
            rule = "another path than the probes'"
            validation.refuse(
                "HardenOptions.metrics_path", self.metrics_path, rule, example='"/metrics"'
            )

    @property
    def all_rate_limits(self) -> list[RateLimit | str]:
        """The limits of all routes and those of some, each of them once."""
        limits = list(self.rate_limits)
        for route in self.routes:
            limits += [limit for limit in route.rate_limits or () if limit not in limits]
        return limits

    @property
    def probes(self) -> tuple[str, ...]:
        """The paths of the probes."""
        return tuple(
            f"{self.health_prefix}/{name}" for name in ("live", "ready", "startup", "deps")
        )

    @classmethod
    def from_env(
        cls, prefix: str, environ: Mapping[str, str] | None = None, **options: Any
    ) -> Self:
        """Read options from environment variables.

        With the prefix `BILLING_`, `BILLING_REQUEST_TIMEOUT=10`.

        A variable is named as its option; those of `limits`, `concurrency`, `streams`, `drain` and
        `cors` have its name before their own: `BILLING_LIMITS_MAX_BODY_BYTES`,
        `BILLING_DRAIN_TIMEOUT`. Lists have commas, `response_headers` a header a line, and `none`
        is None.

        Args:
            prefix: Of the names, with its underscore.
            environ: By default the process's environment.
            options: Options from the code, among them functions and a store, which no variable can
                say. The environment wins.

        Raises:
            ValueError: If a value is wrong, a name is nearly that of an option, or there is the
                address of a store, `BILLING_RATE_LIMIT_STORE`, and no store.
        """
        validation.text("HardenOptions.from_env.prefix", prefix, empty=False, example='"BILLING_"')
        environ = os.environ if environ is None else environ
        own_variables = _variables(cls, prefix)
        groups = {
            name: _variables(group, prefix, f"{name.upper()}_") for name, group in GROUPS.items()
        }
        names = [*own_variables, *(variable for group in groups.values() for variable in group)]
        for name in environ:
            if name.startswith(prefix) and name not in names:
                for alike in get_close_matches(name, names, n=1, cutoff=_ALIKE):
                    validation.refuse(
                        "the environment variable", name, alike, example=f"{alike}=..."
                    )
        _refuse_what_only_code_says(prefix, environ, options)
        for name, variables in groups.items():
            if variables.keys() & environ.keys():
                base = options.get(name)
                make = GROUPS[name] if base is None else partial(replace, base)
                options[name] = _made(make, variables, environ)
        return _made(partial(cls, **options), own_variables, environ)


def _refuse_what_only_code_says(
    prefix: str, environ: Mapping[str, str], options: Mapping[str, object]
) -> None:
    if (address := f"{prefix}RATE_LIMIT_STORE") in environ and "rate_limit_store" not in options:
        example = "rate_limit_store=SharedStore(address)"
        validation.refuse(
            "HardenOptions.from_env", address, "given the store itself", example=example
        )
    for option in sorted(FUNCTIONS - {"rate_limit_store"}):
        if (variable := f"{prefix}{option.upper()}") in environ:
            rule = f"given {option} from the code, since no variable can say it"
            validation.refuse("HardenOptions.from_env", variable, rule, example=f"{option}=...")


def _check_routes(field: str, value: object) -> None:
    example = '[RouteOptions(routes=["GET /export"], request_timeout=120)]'
    if isinstance(value, str) or not isinstance(value, Sequence):
        validation.refuse(field, value, "a list of RouteOptions", example=example)
    listed: set[str] = set()
    for entry in cast("Sequence[object]", value):
        for route in validation.instance(field, entry, RouteOptions, example=example).routes:
            if route in listed:
                validation.refuse(field, route, "in one RouteOptions only", example=example)
            listed.add(route)


def _check_parts(field: str, value: object) -> None:
    if isinstance(value, str) or not isinstance(value, Sequence):
        validation.refuse(field, value, "a list of parts", example="[Maintenance()]")
    for part in cast("Sequence[object]", value):
        validation.instance(field, part, Part, example="[Maintenance()], each a Part")


_RULES: Final[Mapping[str, Check]] = {
    **{option.name: RULES[option.name] for option in fields(HardenOptions) if option.name in RULES},
    "routes": _check_routes,
    "parts": _check_parts,
    "rate_limits": check_rate_limits,
    "rate_limit_store": check_store,
    **dict.fromkeys(
        ("trusted_proxies", "trusted_traces"), lambda _, value: TrustedProxies(cast("Any", value))
    ),
    "concurrency": instance_of(OverloadConfig),
    "streams": instance_of(StreamLimits),
    "drain": instance_of(DrainLimits),
    "work_at_once": partial(validation.whole, example="1000"),
    "cover_tasks": validation.flag,
    "dev": validation.flag,
    "cors": or_none(instance_of(Cors, f"Cors({EXAMPLE})")),
    "access_lines": or_none(partial(validation.whole, example="100, or None for all")),
}


# Options that no text can say.
FUNCTIONS: Final = frozenset(
    {"priority_of", "allow_metrics", "allow_health_detail", "rate_limit_store", "routes", "parts"}
)
GROUPS: Final[Mapping[str, type[Any]]] = {
    "limits": TransferLimits,
    "concurrency": OverloadConfig,
    "streams": StreamLimits,
    "drain": DrainLimits,
    "cors": Cors,
}
_WHOLE: Final = re.compile(r"[+-]?\d+")
# A name that is so much like one of ours is a mistake.
_ALIKE: Final = 0.9


def _read(option: Field[Any], variable: str, text: str) -> object:
    """Read a value in the notation of its option's default."""
    match option.name, option.default:
        case "response_headers", _:
            return tuple(_header(variable, line) for line in text.splitlines() if line.strip())
        case _, bool():
            if text.lower() not in {"true", "false"}:
                validation.refuse(variable, text, "true or false", example="true")
            return text.lower() == "true"
        case _, str():
            return text
        case _, tuple():
            return tuple(part.strip() for part in text.split(",") if part.strip())
        case _:
            return None if text.lower() == "none" else _number(variable, text)


def _number(variable: str, text: str) -> float:
    try:
        return int(text) if _WHOLE.fullmatch(text) else float(text)
    except ValueError:
        validation.refuse(variable, text, "a number", example="30")


def _header(variable: str, line: str) -> tuple[str, str]:
    name, colon, value = line.partition(":")
    if not colon:
        validation.refuse(variable, line, "a header a line", example="X-Frame-Options: DENY")
    return name.strip(), value.strip()


def _variables(kind: type[Any], prefix: str, group: str = "") -> dict[str, Field[Any]]:
    """Return the variables of the options of a class.

    `DRAIN_TIMEOUT`, not `DRAIN_DRAIN_TIMEOUT`.
    """
    return {
        f"{prefix}{group}{option.name.upper().removeprefix(group)}": option
        for option in fields(kind)
        if option.name not in {*FUNCTIONS, *GROUPS}
    }


def _made(
    make: Callable[..., T], variables: Mapping[str, Field[Any]], environ: Mapping[str, str]
) -> T:
    read = {
        option.name: _read(option, name, environ[name])
        for name, option in variables.items()
        if name in environ
    }
    try:
        return make(**read)
    except ValueError as error:
        names = ", ".join(name for name in variables if name in environ)
        raise ValueError(f"{error} (the environment sets {names or 'nothing'})") from None
