"""The page of an index: search, filter, read summaries, say what was right, and add documents.

Every action but adding is a form, so all of it works by keyboard and without scripts. The page
takes changes only from its own forms and its own script, which know a token.
"""

from __future__ import annotations

import hmac
import json
import secrets
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import parse_qs

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import BaseRoute, Route

from sparse_jax import search
from sparse_jax.commands.search.feedback import as_lines
from sparse_jax.commands.serve import filters
from sparse_jax.commands.serve.bodies import MAX_FILE
from sparse_jax.commands.serve.reading import Refusal, encode
from sparse_jax.commands.serve.uploads import Uploads
from sparse_jax.commands.serve.view import Answered, Asked, Frame, page
from sparse_jax.search.answers import answer_from
from sparse_jax.search.thumbs import Thumb, Thumbs

if TYPE_CHECKING:
    from sparse_jax.commands.serve.writer import Writer

__all__ = ["Desk", "make_empty_index", "make_sample_index", "routes", "sample"]

MAX_FORM = 100_000  # bytes of a form
_READ = 5  # of the documents found, that are read for an answer
_MAX_FIELDS = 50
_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; "
        "img-src data:; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}
_FILES = {"page.css": "text/css", "page.js": "text/javascript"}


class Desk(NamedTuple):
    """Where answers are written and judged."""

    writer: Writer
    thumbs: Thumbs


def routes(index: search.Index, uploads: Uploads, desk: Desk | None = None) -> list[BaseRoute]:
    """The page over an index, which must be on disk and open for writing."""
    token = secrets.token_urlsafe(16)
    offer = filters.Offer(index)

    def home(request: Request) -> Response:
        asked = Asked.of(request.query_params)
        note, status, why = request.query_params.get("note", ""), 200, []
        results: list[search.Result] = []
        answer = None
        try:
            where = filters.wanted(asked.where, asked.choices)
            if asked.like:
                results = search.related(index, asked.like, 10, where=where)
                note = f"{note} Documents like {asked.like}.".strip()
            elif asked.q:
                results = index.search(asked.q, k=10, where=where)
                why = index.explain(asked.q, asked.why) if asked.why else []
                answer = _answered(index, asked.q, results, desk) if asked.ask else None
        except (ValueError, TypeError, KeyError) as error:
            results, answer, note, status = [], None, str(error.args[0]), 400
        siblings = getattr(request.app.state, "pages", ())
        frame = Frame(_base(request), token, len(index), offer.fields(), siblings)
        return _html(page(asked, results, why, note, frame, answer), status)

    async def change(request: Request) -> Response:
        try:
            body = await request.app.state.bodies.read(request, MAX_FORM)
        except Refusal as refusal:
            return _html(str(refusal), refusal.status)
        try:
            found = parse_qs(body.decode("ascii"), errors="strict", max_num_fields=_MAX_FIELDS)
        except ValueError:
            return _html("the form is no UTF-8, or has too many fields", 400)
        fields = {name: values[0] for name, values in found.items()}
        if not _is_own(fields.get("token", "")):
            return _html("the form is not from this page: load it anew", 403)
        action = request.url.path.removeprefix(_base(request))
        # Learning takes a while, and the disk.
        if action == "/thumb" and desk is not None:
            note = await run_in_threadpool(judge, desk.thumbs, fields)
        else:
            note = await run_in_threadpool(learn, index, action, fields.get("q", ""), fields)
        # A reload must not send the form again.
        address = f"{_base(request)}/?{Asked.of(fields).query_string(note=note)}"
        return RedirectResponse(address, 303)

    async def upload(request: Request) -> Response:
        try:
            if request.method != "GET" and not _is_own(request.headers.get("x-token", "")):
                cure = "load the page anew"
                raise Refusal("X-Token", "", "be that of the page", cure, status=403)
            most = MAX_FILE if request.method == "PUT" else 0
            body = await request.app.state.bodies.read(request, most)
            found = await run_in_threadpool(_upload, uploads, request, body)
            return Response(encode(found), media_type="application/json")
        except Refusal as refusal:
            headers = {"Connection": "close"} if refusal.status == 413 else None
            return Response(encode(refusal.record), refusal.status, headers, "application/json")

    def feedback(_: Request) -> Response:
        headers = {"Content-Disposition": 'attachment; filename="feedback.jsonl"', **_HEADERS}
        return Response(as_lines(index), headers=headers, media_type="application/x-ndjson")

    def _is_own(given: str) -> bool:
        return hmac.compare_digest(given.encode(), token.encode())

    doors = ("/upvote", "/associate", "/undo", *(["/thumb"] if desk is not None else []))
    return [
        Route("/", home),
        *(Route(path, change, methods=["POST"]) for path in doors),
        Route("/uploads", upload, methods=["POST"]),
        Route("/uploads/{id}", upload, methods=["GET", "PUT", "POST", "DELETE"]),
        Route("/feedback.jsonl", feedback),
        *(Route(f"/{name}", _file) for name in _FILES),
    ]


def _answered(
    index: search.Index, question: str, results: list[search.Result], desk: Desk | None
) -> Answered:
    """The answer to a question, with those that are written, and what was thought of these."""
    found = answer_from(index, question, results[:_READ])
    if desk is None:
        return Answered(found)
    written = desk.writer.several(found)
    return Answered(found, written, desk.thumbs.of(question), desk.writer.path)


def _base(request: Request) -> str:
    """What the addresses of this page begin with."""
    return request.scope.get("root_path", "")


def _html(text: str, status: int = 200) -> Response:
    if not text.startswith("<!doctype"):
        return Response(text, status, _HEADERS, "text/plain")
    return HTMLResponse(text, status, _HEADERS)


def _file(request: Request) -> Response:
    name = request.url.path.rpartition("/")[2]
    content = (files("sparse_jax.commands.serve") / name).read_bytes()
    return Response(content, headers=_HEADERS, media_type=_FILES[name])


def _upload(uploads: Uploads, request: Request, body: bytes) -> dict[str, object]:
    """Does what the page's script asks for."""
    name = request.path_params.get("id")
    if name is None:
        return {"upload": uploads.begin()}
    match request.method:
        case "PUT":
            uploads.add(name, request.query_params.get("path", ""), body)
        case "POST":
            uploads.start(name, replace="replace" in request.query_params)
        case "DELETE":
            uploads.cancel(name)
    return uploads.status()


def learn(index: search.Index, path: str, query: str, fields: dict[str, str]) -> str:
    """Does what a form asks for, and says what that was."""
    try:
        match path:
            case "/upvote":
                index.upvote(query, fields.get("id", ""))
                return f"Learned: {fields['id']} answers “{query}”."
            case "/associate":
                source, target = fields.get("source", ""), fields.get("target", "")
                index.associate(source, target)
                return f"Learned: “{source}” means “{target}”."
            case _:
                index.undo()
                return "Undone."
    except (ValueError, KeyError) as error:
        return str(error.args[0])


def judge(thumbs: Thumbs, fields: dict[str, str]) -> str:
    """Keeps a thumb, and says so."""
    try:
        thumb, sources = fields.get("thumb"), _list(fields.get("sources", "[]"))
        if thumb not in ("up", "down"):
            raise ValueError(f"thumb = {thumb!r:.40}: must be up or down; load the page anew")
        is_up = thumb == "up"
        thumbs.add(Thumb(fields.get("q", ""), fields.get("answer", ""), tuple(sources), is_up))
    except (ValueError, TypeError, OSError) as error:
        return f"Not kept: {error}"
    return f"Kept: you {'like' if is_up else 'do not like'} this answer."


def _list(text: str) -> list[str]:
    """What a field holds in JSON."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):  # thousands of brackets
        found = None
    if not isinstance(found, list):
        raise ValueError(f"sources = {text!r:.40}: must be a list of ids; load the page anew")
    return found


def sample() -> list[search.Document]:
    """The documents the first start indexes."""
    text = (files("sparse_jax.search") / "sample.jsonl").read_text(encoding="utf-8")
    return [search.Document(**json.loads(line)) for line in text.splitlines()]


def make_sample_index(path: Path) -> None:
    """Makes an index of the sample in a directory that holds none."""
    print(f"{path} holds no index: making one of the sample")
    with search.fit(sample()) as made:
        made.save(path)


def make_empty_index(path: Path) -> None:
    """Makes an index without a document in a directory that holds none."""
    with search.fit([search.Document("first", "first")]) as made:
        made.delete("first")
        made.save(path)
