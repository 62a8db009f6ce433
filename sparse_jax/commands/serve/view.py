"""HTML of the page of an index. Whatever comes from documents or people is escaped."""

from __future__ import annotations

import dataclasses
import json
import unicodedata
from collections.abc import Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING
from urllib.parse import urlencode

from sparse_jax import search, summarize
from sparse_jax.commands.search.ask import unknown
from sparse_jax.commands.serve import filters
from sparse_jax.commands.serve.bodies import MAX_FILE, MAX_FILES_BYTES
from sparse_jax.search.answers import Answer
from sparse_jax.search.listing import Field
from sparse_jax.text.features import normalize, pieces

if TYPE_CHECKING:
    from sparse_jax.commands.search.written import Written

__all__ = ["Answered", "Asked", "Frame", "highlight", "page"]

UNMATCHED = (
    "No document below holds a word of the query: parts of words speak for them, or what was "
    "taught."
)
_PLAIN = ("q", "where", "like", "why", "ask")  # of `Asked`, beside what is chosen


@dataclasses.dataclass(frozen=True)
class Asked:
    """What an address of the page asks for."""

    q: str = ""  # the query
    where: str = ""  # conditions on metadata, with & between
    like: str = ""  # id of a document whose like is wanted, instead of a query
    why: str = ""  # id of a result that is to be explained
    ask: str = ""  # whether the query is a question that is to be answered; empty for no
    choices: Mapping[str, str] = dataclasses.field(default_factory=dict)  # of `filters`

    @classmethod
    def of(cls, params: Mapping[str, str]) -> Asked:
        """Of an address, or a form."""
        plain = {name: params.get(name, "") for name in _PLAIN}
        return cls(**plain, choices=filters.chosen(params))

    def query_string(self, **changed: str) -> str:
        """The parameters, with something else asked for."""
        plain = {name: getattr(self, name) for name in _PLAIN}
        return urlencode(
            {name: x for name, x in (plain | dict(self.choices) | changed).items() if x}
        )

    def hidden(self) -> str:
        """Fields that take query and filter along with a form."""
        kept = {"q": self.q, "where": self.where, "ask": self.ask, **self.choices}
        return "".join(_hidden(name, value) for name, value in kept.items())


@dataclasses.dataclass(frozen=True)
class Frame:
    """What the page shows beside results."""

    base: str  # of its addresses
    token: str
    documents: int
    fields: Sequence[Field] = ()
    siblings: Sequence[tuple[str, str]] = ()  # names and addresses of the indexes, itself included


@dataclasses.dataclass(frozen=True)
class Answered:
    """An answer, and those that a language model wrote."""

    answer: Answer
    written: Sequence[Written] = ()
    thumbs: Mapping[str, bool] = dataclasses.field(default_factory=dict)  # by text; true for up
    model: str = ""  # that wrote


def page(
    asked: Asked,
    results: Sequence[search.Result],
    why: Sequence[tuple[str, float]],
    note: str,
    frame: Frame,
    answered: Answered | None = None,
) -> str:
    """The whole page."""
    is_answered = answered is not None and answered.answer.is_known
    if results and asked.q and not is_answered and not any(x.is_matched for x in results):
        note = f"{note} {UNMATCHED}".strip()
    said = f'<p class="note" role="status">{escape(note)}</p>' if note else ""
    hidden = _hidden("token", frame.token) + asked.hidden()
    items = "".join(
        _item(n, found, asked, why, hidden, frame) for n, found in enumerate(results, 1)
    )
    nothing = "<p>Nothing found.</p>" if asked.q or asked.like else ""
    listed = f"<ol>{items}</ol>" if results else nothing
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="icon" href="data:,"><link rel="stylesheet" href="{frame.base}/page.css">
<script src="{frame.base}/page.js" defer></script>
<title>{escape(asked.q) or "Search"}</title></head><body>
<header><h1>Search</h1></header>{_siblings(frame)}
<main>
{_search_form(asked, frame)}
{said}
{_answer(answered.answer, asked.q) if answered is not None else ""}
{_written(answered, asked.q, hidden, frame) if answered is not None else ""}
{listed}
</main>
{_teaching(hidden, frame)}
{_uploading(frame)}
</body></html>"""


def _hidden(name: str, value: str) -> str:
    return f'<input type="hidden" name="{escape(name)}" value="{escape(value)}">'


def _siblings(frame: Frame) -> str:
    """The choice among several indexes."""
    if len(frame.siblings) < 2:
        return ""
    links = "".join(
        f'<a href="{escape(address)}/"{mark}>{escape(name)}</a>'
        for name, address in frame.siblings
        for mark in [' aria-current="page"' if address == frame.base else ""]
    )
    return f'<nav aria-label="Indexes">{links}</nav>'


def _search_form(asked: Asked, frame: Frame) -> str:
    is_open = " open" if asked.where or asked.choices else ""
    return f"""<form action="{frame.base}/" role="search">
<div class="row"><label for="q"><span id="count">Search {frame.documents:,} documents</span>
<input id="q" name="q" type="search" value="{escape(asked.q)}" maxlength="{search.MAX_QUERY}"
 autofocus required></label><button class="main">Search</button>
<button name="ask" value="1">Ask</button></div>
<details{is_open}><summary>Filter</summary><div class="row">
{filters.fieldset(list(frame.fields), asked.choices)}
<label for="where">Conditions, such as year&gt;2005 &amp; kind=note
<input id="where" name="where" value="{escape(asked.where)}" autocapitalize="off"></label>
</div></details></form>"""


def _teaching(hidden: str, frame: Frame) -> str:
    return f"""<details><summary>Teach</summary>
<form action="{frame.base}/associate" method="post" class="row">{hidden}
<label for="source">This <input id="source" name="source" required></label>
<label for="target">means that <input id="target" name="target" required></label>
<button>Associate</button></form>
<form action="{frame.base}/undo" method="post">{hidden}
<button>Undo the last lesson</button></form>
<p><a href="{frame.base}/feedback.jsonl" download>Download what was taught</a> (JSON lines)</p>
</details>"""


def _uploading(frame: Frame) -> str:
    is_open = "" if frame.documents else " open"
    empty = "" if frame.documents else '<p id="empty">Nothing is indexed yet.</p>'
    return f"""<details{is_open}><summary>Add documents</summary>{empty}
<noscript><p>Adding here needs scripts; `sparse-jax search index` needs none.</p></noscript>
<form id="upload" data-base="{frame.base}" hidden>{_hidden("token", frame.token)}
<div id="drop"><p>Drop a folder or files here, or choose: text, Markdown, HTML, PDF, Word, CSV, TSV
or JSON lines; at most {MAX_FILE >> 20} MB each, {MAX_FILES_BYTES >> 30} GB together.</p>
<div class="row">
<label for="files">Files <input id="files" type="file" multiple></label>
<label for="folder">A folder <input id="folder" type="file" webkitdirectory></label></div></div>
<label class="check" for="replace"><input id="replace" name="replace" type="checkbox">
<span>Replace documents that have the same ids</span></label>
<div class="row"><button class="main" disabled>Index them</button>
<button type="button" hidden>Cancel</button></div>
<progress hidden aria-label="Progress"></progress>
<p role="status" tabindex="-1"></p></form></details>"""


def _answer(answer: Answer, question: str) -> str:
    """The answer, with a link to the document below that it is taken from."""
    if answer.source is None:
        said = escape(unknown(answer))
    else:
        number, document = answer.source + 1, answer.passages[answer.source].document
        said = f"""{highlight(answer.text, question)}
<a href="#found{number}">[{number}] {escape(document.title or document.id)}</a>"""
    return f'<section class="note" aria-label="Answer"><p>{said}</p></section>'


def _written(answered: Answered, question: str, hidden: str, frame: Frame) -> str:
    """The answers that a model wrote, each with thumbs."""
    if not answered.written:
        return ""
    items = "".join(
        _draft(number, one, answered, question, hidden, frame)
        for number, one in enumerate(answered.written, 1)
    )
    return f"""<section aria-label="Written answers"><p>Written by the model in
{escape(answered.model)}, of sentences of the documents below. Which are good?</p><ol>{items}</ol>
</section>"""


def _draft(
    number: int, one: Written, answered: Answered, question: str, hidden: str, frame: Frame
) -> str:
    """One of them, its sentences with links to their sources."""
    told = " ".join(
        f'{highlight(text, question)} <a href="#found{place + 1}">[{place + 1}]</a>'
        for text, place in zip(one.sentences, one.sources, strict=True)
    )
    sources = json.dumps([answered.answer.passages[place].id for place in one.sources])
    given = answered.thumbs.get(one.text)
    buttons = "".join(
        f'<button name="thumb" value="{value}" aria-pressed="{str(given is is_up).lower()}" '
        f'aria-label="Thumbs {value} for written answer {number}">{sign}</button>'
        for value, is_up, sign in (("up", True, "👍"), ("down", False, "👎"))
    )
    return f"""<li><p>{told}</p><form action="{frame.base}/thumb" method="post" class="thumbs">
{hidden}{_hidden("answer", one.text)}{_hidden("sources", sources)}{buttons}</form></li>"""


def _item(
    number: int,
    found: search.Result,
    asked: Asked,
    why: Sequence[tuple[str, float]],
    hidden: str,
    frame: Frame,
) -> str:
    """One result."""
    document, query, base = found.document, asked.q, frame.base
    title, shares = document.title or document.id, ""
    summary = summarize.extractive(document.text, max_words=40, query=query or None)
    if why and asked.why == document.id:
        told = ", ".join(f"{escape(word)} {share:+.3f}" for word, share in why)
        shares = f'<p class="score">What each word adds: {told}</p>'
    likes = dataclasses.replace(asked, q="", like=document.id, why="", ask="").query_string()
    like = f'<a href="{escape(f"{base}/?{likes}")}">More like this</a>'
    explained = escape(f"{base}/?{asked.query_string(why=document.id)}")
    explain = f'<a href="{explained}">Why?</a>' if query else ""
    vote = f"""<form action="{base}/upvote" method="post">
{hidden}{_hidden("id", document.id)}
<button aria-label="Thumbs up for {escape(title)}">👍 This is it</button></form>"""
    return f"""<li><h2 id="found{number}">{highlight(title, query)}</h2>
<p>{highlight(summary, query)}</p>
<span class="score">{escape(document.id)}, {found.score:.3f}</span>{shares}
<div class="links">{vote if query else ""}{like}{explain}</div></li>"""


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
