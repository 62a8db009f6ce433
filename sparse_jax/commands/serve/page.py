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
from urllib.parse import parse_qs, quote

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import BaseRoute, Route

from sparse_jax import search, summarize
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
        query = request.query_params.get("q", "")
        note = request.query_params.get("note", "")
        try:
            results = index.search(query, k=10) if query else []
            status = 200
        except (ValueError, TypeError) as error:
            results, note, status = [], str(error), 400
        return HTMLResponse(page(query, results, note, token, len(index)), status_code=status)

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
        query = fields.get("q", "")
        # Learning takes a while, and the disk.
        note = await run_in_threadpool(learn, index, request.url.path, query, fields)
        # A reload must not send the form again.
        return RedirectResponse(f"/?q={quote(query)}&note={quote(note)}", status_code=303)

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


def page(
    query: str, results: Sequence[search.Result], note: str, token: str, documents: int
) -> str:
    """The whole page."""
    hidden = f'<input type="hidden" name="token" value="{token}">'
    asked = f'<input type="hidden" name="q" value="{escape(query)}">'
    if results and not any(found.is_matched for found in results):
        note = f"{note} {UNMATCHED}".strip()
    said = f'<p class="note" role="status">{escape(note)}</p>' if note else ""
    items = "".join(item(found, query, hidden + asked) for found in results)
    listed = f"<ol>{items}</ol>" if results else "<p>Nothing yet.</p>" if query else ""
    return f"""<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<link rel="icon" href="data:,">
<title>{escape(query) or "Search"}</title><style>{STYLE}</style>
<main>
<h1>Search</h1>
<form action="/" role="search"><label for="q">Search {documents:,} documents
<input id="q" name="q" type="search" value="{escape(query)}" maxlength="{search.MAX_QUERY}"
 autofocus required></label><button>Search</button></form>
{said}
{listed}
<h2>Teach</h2>
<form action="/associate" method="post">{hidden}{asked}
<label for="source">This <input id="source" name="source" required></label>
<label for="target">means that <input id="target" name="target" required></label>
<button>Associate</button></form>
<form action="/undo" method="post">{hidden}{asked}<button>Undo the last lesson</button></form>
</main></html>"""


def item(found: search.Result, query: str, hidden: str) -> str:
    """One result."""
    document = found.document
    title = document.title or document.id
    summary = summarize.extractive(document.text, max_words=40, query=query)
    return f"""<li><h2>{highlight(title, query)}</h2>
<p>{highlight(summary, query)}</p>
<span class="score">{escape(document.id)}, {found.score:.3f}</span>
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
