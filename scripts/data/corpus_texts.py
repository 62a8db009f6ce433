"""Files of documentation to paragraphs of English: HTML, manual pages, Info, plain text."""

from __future__ import annotations

import bz2
import gzip
import html
import lzma
import re
import zlib
from collections.abc import Iterable

BREAK = "\x1e"  # between paragraphs while HTML is taken apart
MOST_BYTES = 64 << 20  # of a file; a longer one is data
_BLOCKS = (
    "address,article,aside,blockquote,br+br,caption,dd,div,dl,dt,fieldset,figure,figcaption,form,"
    "h1,h2,h3,h4,h5,h6,hr,li,main,ol,p,pre,section,table,td,th,tr,ul"
)
_SKIPPED = "script,style,nav,header,footer,head,form,svg,math,noscript,select,button,iframe"
_UNPACK = {".gz": gzip.decompress, ".dz": gzip.decompress, ".xz": lzma.decompress}
_UNPACK[".bz2"] = bz2.decompress

# No prose, or names of people.
_NO_PROSE = re.compile(
    r"(^|/)(changelog|changes|news|authors?|thanks|credits?|contributors?|copyright|maintainers?|"
    r"people|acknowledg\w*|genindex|search|py-modindex|todo\.debian|readme\.source|hierarchy|"
    r"annotated|classes|files|functions_\w+|globals_\w+|namespacemembers\w*|index-\d+|"
    r"allclasses\w*|package-(tree|frame|use)|overview-\w+)(\.[a-z]+)*$|/class-use/|-members\.html$"
    r"|_source\.html$|_8\w*\.html$|/_sources/|/dir_[0-9a-f]+\.html$|/search/",
    re.IGNORECASE,
)
_EMAIL = re.compile(
    r"[<(\[]?(?:mailto:)?[\w.+%-]+"
    r"(?:@| ?[\[(<{] ?at ?[\])>}] ?| at (?!(?:the|an?|this|that|each) )(?=[\w-]+ dot ))"
    r"[\w-]+(?:(?:\.| ?[\[(<{] ?dot ?[\])>}] ?| dot )[\w-]+)+[>)\]]?",
    re.IGNORECASE,
)
_MAYBE_ADDRESS = re.compile(r"\bat[\])}>]| at [\w-]+ dot |< ?at ?>", re.IGNORECASE)
_BEFORE_MARK = re.compile(r" +(?=[,.;:!?])")
_PHONE = re.compile(r"\+\d{1,3}[ (.-]*\d[\d ().-]{6,}\d")
_PERSONAL = re.compile(
    r"\s*(copyright\b|©|\(c\) |authors?\s*:|written by\b|maintain(er|ed by)\b|contributors?\s*:|"
    r"this (manual|man) ?page was written|translated by\b|signed-off-by)",
    re.IGNORECASE,
)
_WORD = re.compile(r"[A-Za-z]+(?:'[a-z]+)?")
# What English sentences are held together by, and no other language has all of.
_GLUE = frozenset(
    "the of and to in is a for that with as be this on by or are it not an if from can at you "
    "which will when was have has but they all we its one used use your there his he i".split()
)
_LEAST_GLUE = 0.2


def paragraphs(path: str, content: bytes) -> list[str]:
    """The paragraphs of English in a file of a package; none where it is of another kind.

    Args:
      path: in the package, by which its kind is told.
      content: of the file, packed where its name says so.

    Returns:
      Each on one line, without addresses of people; headings among them where text follows.

    Example:
      >>> paragraphs("usr/share/doc/a/a.txt", b"It is by a@b.org that\\nthis was said to the king.")
      ['It is by that this was said to the king.']
      >>> paragraphs("usr/share/doc/a/a.png", b"It is not the text of a file.")
      []
    """
    name = path.lower()
    for suffix, unpack in _UNPACK.items():
        if name.endswith(suffix):
            name = name.removesuffix(suffix)
            try:
                content = unpack(content)
            except (OSError, EOFError, ValueError, lzma.LZMAError, zlib.error):
                return []
    reader = _reader_of(name)
    if reader is None or _NO_PROSE.search(name) or len(content) > MOST_BYTES:
        return []
    return english(reader(_decode(content)))


def _reader_of(name: str):  # type: ignore[no-untyped-def]
    last = name.rpartition("/")[2]
    suffix = last.rpartition(".")[2] if "." in last else ""
    if suffix in ("html", "htm", "xhtml", "xhtm"):
        return from_html
    if re.search(r"/man/(man\d\w*)/", name):  # translations lie in folders of their own
        return from_manual
    if suffix == "info" or re.search(r"\.info-\d+$", last):
        return from_info
    if suffix == "pod":
        return from_pod
    if suffix in ("txt", "text", "rst", "md", "markdown", "asciidoc", "adoc", "dict", ""):
        return from_text if suffix or last[:1].isalpha() else None
    return None


def _decode(content: bytes) -> str:
    try:
        return content.decode()
    except UnicodeDecodeError:
        return content.decode("latin-1")


def from_html(text: str) -> list[str]:
    """Blocks of a page; what the browser shows around it, scripts and forms are left out."""
    from selectolax.lexbor import LexborHTMLParser

    tree = LexborHTMLParser(text)
    for node in tree.css(_SKIPPED):
        node.decompose()
    if tree.body is None:  # of frames alone
        return []
    for node in tree.css("pre"):
        node.insert_after(BREAK)
        node.replace_with(BREAK + re.sub(r"\n\s*\n", BREAK, node.text()))
    for node in tree.css(_BLOCKS):
        node.insert_before(BREAK)
        node.insert_after(BREAK)
    return tree.body.text().split(BREAK)


_INLINE = re.compile(r"\\f(?:\[\w*\]|\(..|.)|\\[&|^/,%:]|\\s[+-]?\d|\\[mF]\[[^\]]*\]|\\[vh]'[^']*'")
_SIGNS = {
    r"\-": "-",
    r"\(aq": "'",
    r"\(cq": "'",
    r"\(oq": "'",
    r"\(dq": '"',
    r"\(lq": '"',
    r"\(rq": '"',
    r"\(bu": "",
    r"\(em": " - ",
    r"\(en": "-",
    r"\(hy": "-",
    r"\(co": "(c)",
    r"\(ha": "^",
    r"\(ti": "~",
    r"\e": "\\",
    r"\ ": " ",
    r"\~": " ",
    r"\0": " ",
    r"\*(lq": '"',
    r"\*(rq": '"',
    r"\(rs": "\\",
    r"\(mu": "x",
    r"\(->": "->",
    r"\(<=": "<=",
    r"\(>=": ">=",
}
_SIGN = re.compile(r"\\\[(\w+|..)\]")
_FONTS = frozenset(
    "B I R BI BR IB IR RB RI SM SB SH SS Nd Nm Fl Ar Cm Pa Xr Em Sy Li Va Fn".split()
)
_PARTING = frozenset(
    "PP P LP TP TQ IP HP RS RE SH SS br sp nf fi Sh Ss Pp It Bl El Bd Ed EX EE TS TE".split()
)
_LITERAL = {"nf": "fi", "EX": "EE", "TS": "TE", "Bd": "Ed", "de": ".", "ig": ".", "EQ": "EN"}


def from_manual(text: str) -> list[str]:
    """Paragraphs of a page in man or mdoc; tables, listings and macros' own words are left out."""
    blocks: list[list[str]] = [[]]
    until = ""
    for line in text.split("\n"):
        control = re.match(r"[.']\s*([A-Za-z.]*)\s*(.*)", line)
        macro = control[1] if control else ""
        if until:
            until = "" if macro == until else until
            continue
        until = _LITERAL.get(macro, "")
        if macro in _PARTING or not line.strip():
            blocks.append([])
        if control and macro not in _FONTS:
            continue
        said = re.sub(r'"([^"]*)"', r"\1", control[2]) if control else line
        blocks[-1].append(_unescape(said))
        if macro in ("SH", "SS"):
            blocks.append([])
    return [" ".join(block) for block in blocks]


def _unescape(line: str) -> str:
    if "\\" not in line:
        return line
    line = _INLINE.sub("", _SIGN.sub(lambda found: rf"\({found[1]}", line.partition('\\"')[0]))
    for sign, said in _SIGNS.items():
        line = line.replace(sign, said)
    return re.sub(r"\\\(..", "", line)


def from_info(text: str) -> list[str]:
    """Paragraphs of an Info file, its menus and links between nodes left out."""
    kept = [
        node.partition("\n* Menu:")[0]
        for node in re.sub(r"(?m)^File: .*$", "", text).split("\x1f")
        if not node.lstrip().startswith(("Tag Table", "Indirect", "End Tag"))
    ]
    return from_text("\n\n".join(kept))


def from_pod(text: str) -> list[str]:
    """Paragraphs of Perl's documentation, without its marks; code is indented and stays itself."""
    text = re.sub(r"(?m)^=(?:head\d|item)[ \t]+(.*)$", r"\n\1\n", text)
    text = re.sub(r"(?m)^=\w+.*$", "\n", text)
    text = re.sub(r"\b[BCEFILSXZ]<<+\s(.*?)\s>>+", r"\1", text)
    for _ in range(3):  # they nest
        text = re.sub(r"\b[BCEFILSXZ]<([^<>]*)>", r"\1", text)
    return from_text(text)


def from_text(text: str) -> list[str]:
    """What blank lines part; form feeds, underlines of headings and overstrikes are dropped."""
    text = re.sub(r".\x08", "", text.replace("\r\n", "\n"))
    text = re.sub(r"(?m)^\s*([=*~^\"'#+_|.%-])(\1|\s)*$", "", text)
    return re.split(r"\n\s*\n|\f", text)


def english(blocks: Iterable[str]) -> list[str]:
    """Blocks of English prose, each on a line, and the headings before them.

    Example:
      >>> english(["1. Colour", "The colour of the apple is red.", "int a = b;", "Es war rot"])
      ['1. Colour', 'The colour of the apple is red.']
    """
    kept: list[str] = []
    heading = ""
    for block in blocks:
        if len(block) < 2 or block.isspace():
            continue
        line = clean(block)
        words = _WORD.findall(line)
        if not words:
            continue
        if is_prose(line, words):
            if heading:
                kept.append(heading)
            kept.append(line)
            heading = ""
        else:
            fits = len(words) <= 8 and len(line) <= 80 and words[0][0].isupper()
            heading = line if fits and not _PERSONAL.match(line) else ""
    return kept


def clean(block: str) -> str:
    """A block on one line, without addresses of mail, telephone numbers and control characters.

    Example:
      >>> clean("Write to\\n  <Jo.Doe@example.org>, or +49 30 1234567.")
      'Write to, or.'
    """
    if "&" in block:
        block = html.unescape(block)
    line = " ".join(block.replace("\xad", "").replace("¶", " ").split())
    if not line.isprintable():
        line = "".join(filter(str.isprintable, line))
    if "@" not in line and not _MAYBE_ADDRESS.search(line) and "+" not in line:
        return line
    line = _PHONE.sub("", _EMAIL.sub("", line))
    return _BEFORE_MARK.sub("", " ".join(line.split()))


def is_prose(line: str, words: list[str]) -> bool:
    """Whether a line reads like sentences of English: words of letters, enough of them small ones.

    Example:
      >>> line = "The colour of the apple is red."
      >>> is_prose(line, line[:-1].split()), is_prose("Apfel rot", ["Apfel", "rot"])
      (True, False)
    """
    if len(words) < 5 or _PERSONAL.match(line):
        return False
    if sum(map(len, words)) < 0.65 * len(line):
        return False
    glue = sum(word.lower() in _GLUE for word in words)
    return glue >= _LEAST_GLUE * len(words)
