"""The JSON service over models: its routes, its limits, and what it says when it refuses.

    GET  /health     {"status": "ok", "models": [{"name": …, "path": …, "kind": …, "sizes": {…},
                     "waiting": 0}]}; of a single model its entries stand beside "status", too
    POST /models/NAME/predict
                     of a classifier: {"texts": […]} or {"features": [{…}]}, "top_k", "threshold"
    POST /models/NAME/search
                     of an index: {"queries": […]}, "top_k"; a result has "ids", "titles", "scores",
                     "matched", the words of the query that each holds, and "is_matched"
    POST /models/NAME/ask
                     of an index: {"questions": […]}, "top_k" passages that are read, "max_words";
                     an answer has "answer" and its "source", null where it isn't known,
                     "evidence", "missing", "passages" as a result of /search, and "written", with
                     "sentences" of "text" and "source" where a language model is there to write

NAME is that of the model's directory. A single model is at /predict, /search or /ask as well, and
its page at /; of several, / leads to the first page.

Whatever is wrong with a request is said in JSON, {"error": …, "argument": …, "value": …,
"cure": …}, with a status from 400 to 503.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import itertools
import logging
import re
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import quote

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.types import ASGIApp, Receive, Scope, Send

from sparse_jax.commands.serve.bodies import Bodies
from sparse_jax.commands.serve.protocols import Served, Service
from sparse_jax.commands.serve.reading import MAX_SHOWN, Refusal, encode
from sparse_jax.commands.serve.worker import Worker

_log = logging.getLogger("uvicorn.error")


def make_app(served: Served | Mapping[str, Served], *, host: str = "127.0.0.1") -> Starlette:
    """The service over a model, or several by name.

    Args:
      served: of `models.open_model`; names are letters, digits and ``_.-``.
      host: the address it listens on: requests for other host names are refused.

    Returns:
      An ASGI application; `app.state.close` ends the models' threads, and `app.state.bodies` reads
      requests, for `stop`.
    """
    several = dict(served) if isinstance(served, Mapping) else {"model": served}
    services = {name: [one, *one.beside()] for name, one in several.items()}
    workers = {name: [Worker(x.read, x.answer) for x in of] for name, of in services.items()}
    bodies = Bodies()

    async def health(_: Request) -> Response:
        about = [
            {
                "name": name,
                "path": f"/models/{name}{one.door}",
                "kind": one.kind,
                "sizes": one.sizes(),
                "waiting": sum(worker.waiting for worker in workers[name]),
            }
            for name, one in several.items()
        ]
        alone = {name: about[0][name] for name in ("kind", "sizes", "waiting")}
        return reply({"status": "ok", **(alone if len(about) == 1 else {}), "models": about})

    routes: list[BaseRoute] = [Route("/health", health)]
    pages: list[tuple[str, str]] = []
    for name, one in several.items():
        doors = [
            Route(service.door, _asking(service, worker, bodies), methods=["POST"])
            for service, worker in zip(services[name], workers[name], strict=True)
        ]
        more = one.routes()
        mount = Mount(f"/models/{name}", routes=[*doors, *more])
        mount.app.redirect_slashes = False  # type: ignore[attr-defined]
        routes += [mount, *([*doors, *more] if len(several) == 1 else [])]
        pages += [(name, quote(f"/models/{name}"))] * bool(more)
    if len(several) > 1 and pages:
        first = f"{pages[0][1]}/"
        routes.append(Route("/", lambda _: RedirectResponse(first, 307)))
    told = [r for r in routes if isinstance(r, Route) or len(several) > 1]
    listed = ", ".join(_list_routes(told))

    def close() -> None:
        for worker in itertools.chain(*workers.values()):
            worker.close()

    async def wrong(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        path, method = request.url.path, request.method
        if error.status_code == 405:
            must = f"be one of {(error.headers or {}).get('Allow', '')} for {path[:MAX_SHOWN]}"
            refusal = Refusal("method", method, must, f"the routes are {listed}", status=405)
        else:
            status = error.status_code
            refusal = Refusal("path", path, "be a route", f"the routes are {listed}", status=status)
        return refuse(refusal, error.headers)

    async def gone(_: Request, __: Exception) -> Response:
        return Response(status_code=400)  # nobody reads it

    app = Starlette(
        routes=routes,
        middleware=[Middleware(HostCheck, host=host)],
        exception_handlers={HTTPException: wrong, ClientDisconnect: gone},
    )
    app.router.redirect_slashes = False
    app.state.bodies, app.state.pages = bodies, pages
    app.state.close = close
    return app


def _asking(served: Service, worker: Worker, bodies: Bodies) -> Callable[[Request], Any]:
    """What answers a service's requests."""

    async def ask(request: Request) -> Response:
        try:
            body = await bodies.read(request)
            return Response(
                await asyncio.wrap_future(worker.ask(body)), media_type="application/json"
            )
        except Refusal as refusal:
            return refuse(refusal)
        except ClientDisconnect:
            raise
        except asyncio.CancelledError:  # by the server, whose time to stop is over
            must = "be done before the server stops"
            return refuse(Refusal("request", "begun", must, "send it again", status=503))
        except Exception:
            _log.exception("%s failed", served.door)
            error = "the model could not answer this request; the server's log says why"
            return reply({"error": error}, 500)

    return ask


def _list_routes(routes: Sequence[BaseRoute], base: str = "") -> Iterator[str]:
    """Methods and paths."""
    for route in routes:
        if isinstance(route, Mount):
            yield from _list_routes(route.routes, route.path)
        elif isinstance(route, Route):
            for method in sorted(route.methods or ()):
                if method != "HEAD":
                    yield f"{method} {base}{route.path}"


def reply(record: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """A JSON answer."""
    return Response(encode(record), status, headers, media_type="application/json")


def refuse(refusal: Refusal, headers: Mapping[str, str] | None = None) -> Response:
    """A refusal as an answer."""
    # The rest of a body that came too slowly is waited for no more.
    more = {503: {"Retry-After": "1"}, 408: {"Connection": "close"}}.get(refusal.status, {})
    return reply(refusal.record, refusal.status, {**(headers or {}), **more})


class HostCheck:
    """Refuses requests for other host names, as those of a page that rebinds a name of its own.

    On the loopback address that leaves `localhost` and loopback addresses; on another one, the
    name it was given, the machine's own, and any address, which can't be rebound.
    """

    def __init__(self, app: ASGIApp, host: str) -> None:
        self.app = app
        self.loopback = is_loopback(host)
        self.names = {"localhost"}
        if not self.loopback:
            self.names |= {host.lower(), socket.gethostname().lower()}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and not self.allows(Request(scope).headers.get("host", "")):
            name = Request(scope).headers.get("host", "")
            cure = "ask for the address that the server printed when it started"
            refusal = Refusal("Host", name, "name this machine", cure, status=400)
            await refuse(refusal)(scope, receive, send)
        else:
            await self.app(scope, receive, send)

    def allows(self, header: str) -> bool:
        """Whether a Host header names this machine."""
        found = re.fullmatch(r"(\[[^\[\]]*\]|[^:]*)(:\d*)?", header)
        name = found[1].strip("[]").lower() if found else ""
        if name in self.names:
            return True
        with contextlib.suppress(ValueError):
            return ipaddress.ip_address(name).is_loopback or not self.loopback
        return False


def is_loopback(host: str) -> bool:
    """Whether an address is of this machine alone.

    Example:
      >>> [is_loopback(host) for host in ("127.0.0.1", "::1", "localhost", "0.0.0.0", "box")]
      [True, True, True, False, False]
    """
    if host == "localhost":
        return True
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return False
