"""Documents of all kinds, as small as they can be, that tests share."""

from __future__ import annotations

import io


def write(folder, **files):
    """Files by name, `__` for a dot and `___` for a slash; returns the folder."""
    folder.mkdir(exist_ok=True, parents=True)
    for name, content in files.items():
        place = folder / name.replace("___", "/").replace("__", ".")
        place.parent.mkdir(exist_ok=True, parents=True)
        place.write_bytes(content if isinstance(content, bytes) else content.encode())
    return folder


def pdf(*pages: str, title: str = "") -> bytes:
    """A PDF of lines, one a page, written by hand."""
    kids = " ".join(f"{4 + 2 * n} 0 R" for n in range(len(pages)))
    parts = [
        "<</Type/Catalog/Pages 2 0 R>>",
        f"<</Type/Pages/Kids[{kids}]/Count {len(pages)}>>",
        "<</Type/Font/Subtype/Type1/BaseFont/Helvetica>>",
    ]
    for n, text in enumerate(pages):
        stream = f"BT /F1 12 Tf 20 20 Td ({text}) Tj ET" if text else ""
        parts.append(
            f"<</Type/Page/Parent 2 0 R/MediaBox[0 0 200 200]/Contents {5 + 2 * n} 0 R"
            "/Resources<</Font<</F1 3 0 R>>>>>>"
        )
        parts.append(f"<</Length {len(stream)}>>\nstream\n{stream}\nendstream")
    parts.append(f"<</Title({title})>>")
    out, places = b"%PDF-1.4\n", []
    for number, part in enumerate(parts, 1):
        places.append(len(out))
        out += f"{number} 0 obj\n{part}\nendobj\n".encode()
    start = len(out)
    out += f"xref\n0 {len(parts) + 1}\n0000000000 65535 f \n".encode()
    out += b"".join(f"{place:010} 00000 n \n".encode() for place in places)
    info = len(parts)
    tail = f"trailer<</Size {info + 1}/Root 1 0 R/Info {info} 0 R>>\nstartxref\n{start}\n%%EOF"
    return out + tail.encode()


def word() -> bytes:
    import docx

    document = docx.Document()
    document.add_paragraph("Orchards", style="Title")
    document.add_paragraph("An orchard is planted land.")
    document.add_heading("Harvest", level=1)
    document.add_paragraph("Apples are picked in autumn.")
    table = document.add_table(rows=1, cols=2)
    table.rows[0].cells[0].text, table.rows[0].cells[1].text = "Boskoop", "October"
    file = io.BytesIO()
    document.save(file)
    return file.getvalue()


PAGE = """<!doctype html><html><head><title> Red  apples </title><style>p {}</style></head><body>
<p>They gr<b>ow</b> on trees.<script>var x = 1</script></p><h2>Kinds <i>of them</i></h2>
<ul><li>Boskoop</li><li>Elstar &amp; more</li></ul><!-- none --></body></html>"""
NOTES = """---
title: "My notes"
---
Before all.

# Install
## Linux
Use `apt` and *patience*.

```sh
sudo apt install
```
## Linux
Or build it.
"""
CSV = 'docno,Headline,body,year,code\r\n7,"Red, ripe","apples\ngrow",2005,007\r\n8,,cars,2010,x\r\n'

TREC = """<DOC>
<DOCNO> FT911-3 </DOCNO>
<HEADLINE>Apples &amp; pears</HEADLINE>
<TEXT>
They <b>grow</b>.
</TEXT><TEXT>Slowly.</TEXT>
</DOC>
<DOC><DOCNO>X-2</DOCNO>no text tag caf\xe9</DOC>
"""
