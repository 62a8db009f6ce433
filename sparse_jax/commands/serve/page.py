"""The page of an index: search, read summaries, and say what was right.

Every action is a form, so all of it works by keyboard and without scripts. The page takes changes
only from its own forms.
"""

from __future__ import annotations

import hmac
import json
import secrets
import unicodedata
from collections.abc import Sequence
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import NamedTuple
from urllib.parse import parse_qs, urlencode

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import BaseRoute, Route

from sparse_jax import search, summarize
from sparse_jax.commands.search.query import conditions
from sparse_jax.commands.serve.reading import Refusal
from sparse_jax.text.features import normalize, pieces

MAX_FORM = 100_000  # bytes of a form
UNMATCHED = (
    "No document below holds a word of the query: parts of words speak for them, or what was "
    "taught."
)
STYLE = """
:root { color-scheme: light dark; font: 1rem/1.5 system-ui, sans-serif }
body { max-width: 46rem; margin: 2rem auto; padding: 0 1rem }
form { display: flex; gap: .5rem; flex-wrap: wrap; align-items: end; margin: .5rem 0 }
label { display: grid; flex: 1 1 12rem }
input, button { font: inherit; padding: .4rem .6rem }
:focus-visible { outline: 3px solid #06c; outline-offset: 2px }
ol { padding-left: 1.5rem } li { margin: 1.2rem 0 } h2 { font-size: 1.05rem; margin: 0 }
li form { margin: .3rem 0 0 } mark { padding: 0 .1em } .score { opacity: .75; font-size: .85rem }
.note { border-left: 4px solid #06c; padding-left: .8rem }
"""


def routes(index: search.Index) -> list[BaseRoute]:
    """The page over an index, which must be on disk and open for writing."""
    token = secrets.token_urlsafe(16)

    def home(request: Request) -> Response:
        asked = Asked(**{name: request.query_params.get(name, "") for name in Asked._fields})
        note, status, why = request.query_params.get("note", ""), 200, []
        results: list[search.Result] = []
        try:
            where = conditions([part.strip() for part in asked.where.split("&") if part.strip()])
            if asked.like:
                results = search.related(index, asked.like, 10, where=where)
                note = f"{note} Documents like {asked.like}.".strip()
            elif asked.q:
                results = index.search(asked.q, k=10, where=where)
                why = index.explain(asked.q, asked.why) if asked.why else []
        except (ValueError, TypeError, KeyError) as error:
            results, note, status = [], str(error.args[0]), 400
        return HTMLResponse(page(asked, results, why, note, token, len(index)), status_code=status)

    async def change(request: Request) -> Response:
        try:
            body = await request.app.state.bodies.read(request, MAX_FORM)
        except Refusal as refusal:
            return HTMLResponse(escape(str(refusal)), status_code=refusal.status)
        try:
            found = parse_qs(body.decode("ascii"), errors="strict", max_num_fields=10)
        except ValueError:
            return HTMLResponse("the form is no UTF-8", status_code=400)
        fields = {name: values[0] for name, values in found.items()}
        if not hmac.compare_digest(fields.get("token", "").encode(), token.encode()):
            return HTMLResponse("the form is not from this page: load it anew", status_code=403)
        query, where = fields.get("q", ""), fields.get("where", "")
        # Learning takes a while, and the disk.
        note = await run_in_threadpool(learn, index, request.url.path, query, fields)
        # A reload must not send the form again.
        return RedirectResponse(f"/?{urlencode(dict(q=query, where=where, note=note))}", 303)

    return [
        Route("/", home),
        *(Route(path, change, methods=["POST"]) for path in ("/upvote", "/associate", "/undo")),
    ]


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


class Asked(NamedTuple):
    """What an address of the page asks for."""

    q: str = ""  # the query
    where: str = ""  # conditions on metadata, with & between
    like: str = ""  # id of a document whose like is wanted, instead of a query
    why: str = ""  # id of a result that is to be explained

    def address(self, **changed: str) -> str:
        """Of the page with something else asked for."""
        found = {name: x for name, x in (self._asdict() | changed).items() if x}
        return escape(f"/?{urlencode(found)}")


def page(
    asked_for: Asked,
    results: Sequence[search.Result],
    why: Sequence[tuple[str, float]],
    note: str,
    token: str,
    documents: int,
) -> str:
    """The whole page."""
    query = asked_for.q
    hidden = f'<input type="hidden" name="token" value="{token}">'
    asked = "".join(
        f'<input type="hidden" name="{name}" value="{escape(getattr(asked_for, name))}">'
        for name in ("q", "where")
    )
    if results and query and not any(found.is_matched for found in results):
        note = f"{note} {UNMATCHED}".strip()
    said = f'<p class="note" role="status">{escape(note)}</p>' if note else ""
    items = "".join(item(found, asked_for, why, hidden + asked) for found in results)
    nothing = "<p>Nothing yet.</p>" if query or asked_for.like else ""
    listed = f"<ol>{items}</ol>" if results else nothing
    return f"""<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<link rel="icon" href="data:,">
<title>{escape(query) or "Search"}</title><style>{STYLE}</style>
<main>
<h1>Search</h1>
<form action="/" role="search"><label for="q">Search {documents:,} documents
<input id="q" name="q" type="search" value="{escape(query)}" maxlength="{search.MAX_QUERY}"
 autofocus required></label>
<label for="where">Filter, such as year&gt;2005 &amp; kind=note
<input id="where" name="where" value="{escape(asked_for.where)}"></label>
<button>Search</button></form>
{said}
{listed}
<h2>Teach</h2>
<form action="/associate" method="post">{hidden}{asked}
<label for="source">This <input id="source" name="source" required></label>
<label for="target">means that <input id="target" name="target" required></label>
<button>Associate</button></form>
<form action="/undo" method="post">{hidden}{asked}<button>Undo the last lesson</button></form>
</main></html>"""


def item(found: search.Result, asked: Asked, why: Sequence[tuple[str, float]], hidden: str) -> str:
    """One result."""
    document, query = found.document, asked.q
    title, shares = document.title or document.id, ""
    summary = summarize.extractive(document.text, max_words=40, query=query or None)
    if why and asked.why == document.id:
        told = ", ".join(f"{escape(word)} {share:+.3f}" for word, share in why)
        shares = f'<p class="score">What each word adds: {told}</p>'
    like = f'<a href="{Asked(where=asked.where, like=document.id).address()}">More like this</a>'
    explain = f' <a href="{asked.address(why=document.id)}">Why?</a>' if query else ""
    return f"""<li><h2>{highlight(title, query)}</h2>
<p>{highlight(summary, query)}</p>
<span class="score">{escape(document.id)}, {found.score:.3f}</span>
<span>{like}{explain}</span>{shares}
<form action="/upvote" method="post">{hidden}
<input type="hidden" name="id" value="{escape(document.id)}">
<button aria-label="Thumbs up for {escape(title)}">👍 This is it</button></form></li>"""


def highlight(text: str, query: str) -> str:
    """HTML of a text, with the words of the query, and words that begin alike, marked.

    Example:
      >>> highlight("Apples & pears", "apple"), highlight("C, C++", "c++")
      ('<mark>Apples</mark> &amp; pears', 'C, <mark>C++</mark>')
    """
    wanted = set(normalize(query).split())
    stems = {stem(word) for word in wanted if len(word) >= 5}
    parts = []
    for part, words in pieces(text):
        hit = any(word in wanted or stem(word) in stems for word in words)
        parts.append(f"<mark>{escape(part)}</mark>" if hit else escape(part))
    return "".join(parts)


def stem(word: str) -> str:
    """The first five characters, and marks that belong to the fifth."""
    end = 5
    while end < len(word) and unicodedata.category(word[end]) in ("Mn", "Mc"):
        end += 1
    return word[:end]


def sample() -> list[search.Document]:
    """The documents the first start indexes."""
    text = (files("sparse_jax.search") / "sample.jsonl").read_text(encoding="utf-8")
    return [search.Document(**json.loads(line)) for line in text.splitlines()]


def make_sample_index(path: Path) -> None:
    """Makes an index of the sample in a directory that holds none."""
    print(f"{path} holds no index: making one of the sample")
    with search.fit(sample()) as made:
        made.save(path)
