"""The composition root: the only module that wires the parts together."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from anyio import to_thread
from anyio.lowlevel import checkpoint
from starlette.applications import Starlette
from starlette.responses import Response
from starlette.routing import Mount
from starlette.staticfiles import StaticFiles

from postfacta_adapters.limits import SharedStore
from postfacta_core.asgi import Cors, HardenOptions, Scope, Telemetry, harden
from postfacta_core.asgi.metrics import has_bearer_token
from postfacta_core.asgi.stack import Hardened
from postfacta_core.drain import DrainLimits
from postfacta_core.drain.resources import Resource
from postfacta_core.events import Observer
from postfacta_core.health.registry import HealthRegistry
from postfacta_core.telemetry.metrics import Metrics
from postfacta_postgres import Database, PoolOptions, prune_keys
from postfacta_slo.status.prometheus import Prometheus
from postfacta_slo.status.watch import Watch
from postfacta_web.sign_in import SignInThrottle

from . import actions, durations, export, incident_page, labels, links, live, problems
from .db import Reader, Transactions, repeating
from .errors import RateLimitedError
from .flags import FLAGS, Flags
from .identity import pages as identity
from .identity.accounts import Accounts, LocalAccounts, losses
from .identity.guard import Guard, revocations
from .incidents import api as incidents, v0
from .incidents.v0 import PostgresV0
from .migrations import HEAD, revision
from .openapi import openapi_document
from .postmortems import pages as postmortems
from .principal import NOBODY
from .rates import address_limits, limited, route_options
from .reliability import about
from .reliability.about import BusinessMetrics, load_codebase, read_business
from .settings import AGES, AuthMode, Read, Rotation, Settings, password_of
from .signals import api as signals
from .signals.intake import Intake
from .signals.mapping import Mappings
from .timeline import api as timeline
from .timeline.kept import KeptTimelines
from .web.render import ASSETS_VERSION, STATIC, Pages, stale_answers
from .web.routes import RouteClass, Rule, Tools, build_routes, packed

_SLICES = (
    # In the order in which a request is looked for: a signal is the most frequent one.
    *(incidents, signals, incident_page, timeline, postmortems, durations, actions, links, labels),
    *(export, live, v0, identity, about, problems),
)


class _Assets(StaticFiles):
    """Files that browsers keep for a year, if they ask for the version that this process has."""

    def file_response(self, *args: Any, **kwargs: Any) -> Response:
        response = super().file_response(*args, **kwargs)
        scope = kwargs.get("scope") or args[2]
        is_this = scope["query_string"].decode("latin-1") == ASSETS_VERSION
        lifetime = "public, max-age=31536000, immutable" if is_this else "no-cache"
        response.headers["Cache-Control"] = lifetime
        return response


_ASSETS = Mount("/static", packed(_Assets(directory=STATIC)))
_CSP = "default-src 'self'; frame-ancestors 'none'; form-action 'self'; base-uri 'none'"
_EXPOSED = ["Age", "As-Of", "Cache-Status", "ETag", "Link", "Location", "Idempotency-Replayed"]
_HEADERS = (
    ("content-security-policy", _CSP),
    ("x-content-type-options", "nosniff"),
    ("referrer-policy", "same-origin"),
    ("cross-origin-opener-policy", "same-origin"),
)
# One year of TLS only for this host. Not in `local`, where there is no TLS.
_STRICT_TRANSPORT = ("strict-transport-security", "max-age=31536000")


class SchemaOutdatedError(Exception):
    """The database is not at the revision that this program needs."""


class NotDurableError(Exception):
    """The database may lose what it has committed; `postfacta doctor` says by which settings."""


def create_app(
    settings: Settings, *, v0_store: PostgresV0 | None = None, read: Read | None = None
) -> Hardened:
    """Create the application; nothing is opened before its lifespan starts.

    `read` reloads replaced secrets.
    """
    rotation = Rotation(settings, read)
    codebase = load_codebase()
    telemetry = Telemetry(metrics=Metrics(version=settings.app_version or codebase.version))
    business, flags = _business(rotation, telemetry)
    database = _database(rotation, telemetry)
    transactions = Transactions(database, count=business.count)
    pages = Pages(version=settings.app_version or codebase.version)
    faults = problems.Problems(
        version="" if settings.is_local else settings.app_version, pages=pages
    )
    store = SharedStore(settings.rate_store.get_secret_value()) if settings.rate_store else None
    attempted = partial(business.count, "postfacta_auth_attempts_total")
    accounts, resources = _sign_in(
        rotation, transactions, business, store=store, observer=telemetry.observer
    )
    guard = Guard(
        database, settings, foreign=accounts.credential, attempted=partial(attempted, "token")
    )
    stale = stale_answers(database.name)
    announcements = live.Announcements(database)
    apply_revocations = revocations(
        partial(losses, Reader(database, NOBODY)),
        distrust=announcements.after(guard.forget),
        hide=announcements.after(stale.forget),
    )
    health = _health(settings, database, telemetry)
    watch = None
    if settings.prometheus_url:
        # One second a query: at exit, the process waits for one that is still running.
        watch = Watch(
            "postfacta", lambda: Prometheus(*rotation.current.valid("prometheus_url"), timeout=1.0)
        )
    about_us = about.About(codebase, settings.environment, health, telemetry.metrics, watch)
    store_of_v0 = v0_store or PostgresV0(database, transactions)
    ingest = (Intake(settings), Mappings(settings))
    parts = (*ingest, accounts, guard, announcements, store_of_v0, about_us, KeptTimelines())
    table = declared(flags)
    tools = Tools(transactions, pages, stale, parts=parts)
    about_us.describe(openapi_document(table, version=codebase.version))
    admit = limited(guard.authenticate, settings, store=store, observer=telemetry.observer)
    repeated = partial(repeating, connected=database.wait_connected, observer=telemetry.observer)
    if watch:
        look = partial(to_thread.run_sync, watch.look, abandon_on_cancel=True)
        # The objectives need no database.
        resources = [
            repeated("objectives", look, connected=checkpoint, interval=5.0),
            *resources,
        ]
    readers = (partial(revision, database), partial(read_business, database))
    app = Starlette(
        routes=[*build_routes(table, admit, tools), _ASSETS], exception_handlers=faults.handlers
    )
    app.router.redirect_slashes = False
    return harden(
        app,
        service="postfacta",
        options=_options(rotation, table, store),
        telemetry=telemetry,
        health=health,
        resources=[
            rotation.renewing(store),
            flags.running(),
            database,
            announcements.running(),
            # With limits by address, `harden` opens it.
            *([store] if store and not address_limits(settings) else []),
            repeated("flags", partial(flags.audit, database), interval=flags.every),
            repeated("prune_keys", partial(prune_keys, database), interval=3600.0),
            repeated("revocations", apply_revocations, interval=2.0),
            repeated("business_metrics", partial(business.look, *readers), interval=60.0),
            *resources,
        ],
        render=faults.core,
    )


def declared(flags: Flags | None = None) -> list[Rule]:
    """Return the route table."""
    guarded = (flags or Flags(None)).guard
    return [guarded(rule) for slice_ in _SLICES for rule in slice_.routes.rules]


def _business(rotation: Rotation, telemetry: Telemetry) -> tuple[BusinessMetrics, Flags]:
    business = BusinessMetrics(expected=HEAD)
    telemetry.metrics.registry.register(business)
    flags = Flags(rotation.current.flags, count=business.count)
    for name in AGES:
        business.show("postfacta_secret_age_seconds", partial(rotation.age, name), name)
    for flag in FLAGS:
        business.show("postfacta_feature_flag", partial(flags.is_on, flag.name), flag.name)
    business.show("postfacta_feature_flags_valid", lambda: flags.is_valid)
    return business, flags


def _database(rotation: Rotation, telemetry: Telemetry) -> Database:
    settings = rotation.current
    return Database(
        settings.database_dsn.get_secret_value(),
        options=PoolOptions(
            max_size=settings.pool_max_size,
            # At 10 ms a request these are served within 0.2 s; the core's default suits slower
            # statements.
            max_waiting=20 * settings.pool_max_size,
            acquire_timeout=settings.pool_acquire_timeout,
            statement_timeout=settings.statement_timeout,
            reset=False,  # None of our statements leaves session state behind.
            plan_each_time=True,  # In an alert storm tables grow faster than their statistics.
        ),
        password=rotation.password if password_of(settings) else None,
        observer=telemetry.observer,
    )


def _sign_in(
    rotation: Rotation,
    transactions: Transactions,
    business: BusinessMetrics,
    *,
    store: SharedStore | None,
    observer: Observer,
) -> tuple[Accounts, Sequence[Resource]]:
    """Return the accounts of the sign-in mode, and the resources that they need open."""
    common: dict[str, Any] = {
        "throttle": SignInThrottle(uncounted=RateLimitedError, store=store, observer=None),
        "attempted": partial(business.count, "postfacta_auth_attempts_total", "password"),
    }
    if rotation.current.auth_mode is not AuthMode.SUPABASE:
        return LocalAccounts(transactions, is_local=rotation.current.is_local, **common), ()
    # Its cryptography is slow to import, and needed by this mode only.
    from .identity.supabase import of_project  # noqa: PLC0415

    accounts, resources = of_project(rotation, transactions, observer=observer, **common)
    business.show("postfacta_jwks_age_seconds", accounts.keys.age)
    return accounts, resources


def _options(
    rotation: Rotation, table: list[Rule], rate_store: SharedStore | None
) -> HardenOptions:
    """Return the protection of the service, from its settings.

    Values that a rotation may replace are functions, called for each request.
    """
    settings = rotation.current
    rates = address_limits(settings)

    def tokens() -> tuple[str, ...]:
        return rotation.current.valid("metrics_token")

    def may_see_checks(scope: Scope) -> bool:
        # To those who may scrape the metrics; in `local`, to all.
        if rotation.current.metrics_token:
            return has_bearer_token(dict(scope["headers"]), tokens)
        return settings.is_local

    return HardenOptions(
        cors=Cors(
            allow_origins=settings.cors_origins,
            allow_credentials=settings.cors_credentials,
            allow_methods=["GET", "POST", "PUT", "PATCH", "DELETE"],
            allow_headers=["Authorization", "If-Match", "If-None-Match", "Idempotency-Key"],
            expose_headers=_EXPOSED,
        ),
        limits=RouteClass.WRITE.limits,
        routes=route_options(table),
        request_timeout=RouteClass.WRITE.seconds,  # Until routing has found the class.
        rate_limits=rates,
        rate_limit_store=rate_store if rates else None,
        trusted_proxies=settings.trusted_proxies,
        trusted_traces=settings.trusted_traces,
        shedding=settings.shedding,
        drain=DrainLimits(drain_delay=settings.delay, drain_timeout=settings.drain_timeout),
        response_headers=_HEADERS if settings.is_local else (*_HEADERS, _STRICT_TRANSPORT),
        metrics_token=tokens if settings.metrics_token else "",
        # A proxy on this machine may add no header of its own: then its clients look like a scrape
        # by this machine.
        allow_metrics=lambda _: settings.is_local or settings.metrics_token is not None,
        allow_health_detail=may_see_checks,
        traffic_key=(lambda: rotation.current.valid("traffic_key")) if settings.traffic_key else "",
        quiet=("/healthz",),
    )


def _health(settings: Settings, database: Database, telemetry: Telemetry) -> HealthRegistry:
    """Return the health checks; `ready_requires_db` decides if the database can make it unready."""
    health = HealthRegistry(observer=telemetry.observer)
    critical = settings.ready_requires_db
    passed = {"schema": False, "durability": False}

    def is_away() -> bool:
        return not database.is_connected or database.breaker.statistics().retry_after is not None

    async def schema() -> None:
        # Keep the last result while the database is unavailable: the first check reports that.
        if passed["schema"] and is_away():
            return
        current = await revision(database)
        passed["schema"] = current is not None and current >= HEAD
        if not passed["schema"]:
            raise SchemaOutdatedError(current)

    async def durability() -> None:
        if not (passed["durability"] and is_away()):
            problems = await database.durability_problems()
            passed["durability"] = not problems
            if problems:
                raise NotDurableError(", ".join(problems))

    health.add("database", database.ping, critical=critical)
    health.add("writes", database.check_writes, critical=False, fall=1, rise=1)
    health.add("schema", schema, critical=critical, rise=1)
    health.add("durability", durability, critical=critical, rise=1)
    return health
