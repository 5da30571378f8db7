"""The reports of the stored versions for a browser: read-only, for callers who have the home's secret.

    python -m flows.entry.reports <file descriptor of the listening socket> <host name> [<host name> ...]

One page lists the versions of each market, one sets the markets of a source side by side, and one shows a version's
report; nothing else can be read, and nothing can be written. No part of an address ever becomes a path: it is taken for
the name of a source or a version, and the store says whether there is one. A report is shown as a page without an
origin, so that no script in it reaches another.
"""

import base64
import secrets
import socket
import sys
from collections.abc import Callable, Sequence
from datetime import UTC, datetime

import uvicorn
from jinja2 import Environment, StrictUndefined
from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from flows.entry.headed import Headed
from storage.artifacts import ArtifactStore
from storage.authorship import Where
from storage.schema import ConfigError, Market, PipelineError, Source, VersionRef, parse_source
from storage.secret import home_secret
from storage.settings import Settings

_LONGEST_REQUEST = 16_384  # bytes of its first line and headers; more is refused unread
_MOST_AT_ONCE = 32
_NEWEST = 50  # of a market's versions, on the list

_LIST_POLICY = "default-src 'none'; style-src 'unsafe-inline'"
# The panel's own policy, in the page, names its one script by its hash; both hold.
_PANEL_POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'"
# A report's own policy, in the page, names its scripts by their hashes; both hold.
_REPORT_POLICY = (
    "sandbox allow-scripts allow-downloads; default-src 'none'; img-src data: blob:; style-src 'unsafe-inline'; "
    "script-src 'unsafe-inline'"
)
_ON_EVERY_ANSWER = {
    "content-security-policy": "default-src 'none'",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "cache-control": "no-store",
}

_PAGES = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
_PAGE = _PAGES.from_string(
    """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>Reports</title><style>
:root { color-scheme: light dark }
a { color: light-dark(#1f5fa8, #8ab8ee); text-decoration: none } a:hover { text-decoration: underline }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem }
table { border-collapse: collapse; width: 100% } th, td { text-align: left; padding: .3rem 1rem .3rem 0 }
tr { border-bottom: 1px solid color-mix(in srgb, currentColor 20%, transparent) }
.note { opacity: .7 }
</style></head><body><h1>Reports</h1>
{% if markets %}
<p>Side by side, and what of it is more than luck:
{% for source in sources %}
<a href="/{{ source }}">all markets from {{ source }}</a>{{ ", " if not loop.last }}
{% endfor %}
</p>
{% endif %}
{% for market in markets %}
<h2>{{ market.title }}</h2>
<table><thead><tr><th scope="col">made, UTC</th><th scope="col">version</th><th scope="col">verdict</th></tr></thead>
<tbody>
{% for one in market.versions %}
<tr><td>{{ one.made }}</td><td><a href="{{ one.path }}">{{ one.version }}</a></td><td>{{ one.verdict }}</td></tr>
{% endfor %}
</tbody></table>
{% if market.older %}<p class="note">and {{ market.older }} older ones</p>{% endif %}
{% else %}
<p>There is none yet: a run of the pipeline makes the first one.</p>
{% endfor %}
</body></html>
"""
)

_NOT_HERE = _PAGES.from_string(
    """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>Not here</title></head>
<body><p>{{ what }}</p><p><a href="/">All reports</a></p></body></html>
"""
)


def reports_app(store: Where, secret: str, hosts: Sequence[str]) -> ASGIApp:
    """Return the server of the reports.

    A caller must show the `secret`, `user:password`, and use one of the `hosts`.
    """

    def show_list(request: Request) -> Response:
        try:
            markets = _markets(ArtifactStore(store))
            page = _PAGE.render(markets=markets, sources=list(dict.fromkeys(one["source"] for one in markets)))
        except PipelineError as err:
            return PlainTextResponse(f"no list: {err}\n", 503)
        return _policed(HTMLResponse(page), _LIST_POLICY)

    def show_panel(request: Request) -> Response:
        # Here, for who looks at reports alone needs none of it: it takes longer to load than the server does.
        from tasks.reporting.panel import read_panel
        from tasks.reporting.panel_page import render_panel

        try:
            panel = read_panel(ArtifactStore(store), parse_source(request.path_params["source"]), datetime.now(UTC))
        except PipelineError as err:
            return _not_here(f"no markets: {err}")
        return _policed(HTMLResponse(render_panel(panel, link=lambda ref: f"/{ref}")), _PANEL_POLICY)

    def show_report(request: Request) -> Response:
        try:
            ref = VersionRef(**request.path_params | {"source": parse_source(request.path_params["source"])})
            page = ArtifactStore(store).read(ref, "report.html")
        except PipelineError as err:
            return _not_here(f"no report: {err}")
        return _policed(HTMLResponse(page), _REPORT_POLICY)

    routes = [
        Route("/", show_list),
        Route("/{source}", show_panel),
        Route("/{source}/{name}/{version}", show_report),
    ]
    guards = [
        Middleware(Headed, headers=_ON_EVERY_ANSWER),
        Middleware(TrustedHostMiddleware, allowed_hosts=list(hosts), www_redirect=False),
        Middleware(_Guarded, secret=secret),
    ]
    app = Starlette(routes=routes, middleware=guards)
    app.router.redirect_slashes = False
    return app


class _Guarded:
    """Lets nobody in without the secret, and nothing but reading."""

    def __init__(self, app: ASGIApp, secret: str) -> None:
        self._app = app
        self._wanted = base64.b64encode(secret.encode())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and (refusal := self._refusal(scope)) is not None:
            await refusal(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    def _refusal(self, scope: Scope) -> Response | None:
        kind, _, shown = Headers(scope=scope).get("authorization", "").partition(" ")
        if kind.lower() != "basic" or not secrets.compare_digest(shown.strip().encode(), self._wanted):
            ask = {"www-authenticate": 'Basic realm="reports of this home", charset="UTF-8"'}
            return PlainTextResponse("the home's secret is asked for\n", 401, ask)
        if scope["method"] not in ("GET", "HEAD"):
            return PlainTextResponse("read-only\n", 405, {"allow": "GET, HEAD"})
        return None


def _policed(response: Response, policy: str) -> Response:
    response.headers["content-security-policy"] = policy
    return response


def _not_here(what: str) -> Response:
    return HTMLResponse(_NOT_HERE.render(what=what), 404)


def _title(name: str) -> str:
    try:
        return str(Market.of_slug(name))
    except ConfigError:
        return name


def _verdicts(store: ArtifactStore, source: Source, name: str) -> Callable[[VersionRef], str]:
    """Return what became of a version, by the history of champions alone: a manifest each would be many requests."""
    try:
        history = store.history(source, name)
    except PipelineError as err:
        unknown = f"unknown: {err}"
        return lambda ref: unknown
    promoted, champion = {entry.ref for entry in history}, history[-1].ref
    return lambda ref: "champion" if ref == champion else "champion before" if ref in promoted else "not promoted"


def _markets(store: ArtifactStore) -> list[dict[str, object]]:
    """Return what the list says of each market: its versions, the newest first, and what became of each."""
    shown: list[dict[str, object]] = []
    for source, name in store.markets():
        versions = store.versions(source, name)[::-1]
        if not versions:
            continue
        verdict = _verdicts(store, source, name)
        lines = [
            {
                "made": f"{one.made[:4]}-{one.made[4:6]}-{one.made[6:8]} {one.made[9:11]}:{one.made[11:13]}",
                "version": one.version,
                "path": f"/{one}",
                "verdict": verdict(one),
            }
            for one in versions[:_NEWEST]
        ]
        older = len(versions) - len(lines)
        shown.append({"source": source, "title": f"{_title(name)} from {source}", "versions": lines, "older": older})
    return shown


def _serve(descriptor: int, hosts: Sequence[str]) -> None:
    settings = Settings.from_environment()
    app = reports_app(settings.models, home_secret(settings.home), hosts)
    config = uvicorn.Config(
        app,
        loop="asyncio",
        http="h11",
        h11_max_incomplete_event_size=_LONGEST_REQUEST,
        limit_concurrency=_MOST_AT_ONCE,
        lifespan="off",
        log_level="warning",
        access_log=False,
        proxy_headers=False,
        server_header=False,
        timeout_graceful_shutdown=1,
    )
    uvicorn.Server(config).run(sockets=[socket.socket(fileno=descriptor)])


if __name__ == "__main__":
    _serve(int(sys.argv[1]), sys.argv[2:])
