"""One HTML page with its pictures inside, which can be mailed and needs no network."""

import base64
import dataclasses
import html
from collections.abc import Sequence
from pathlib import Path

from squeezetime_jax.files import write_whole

_STYLE = """
:root { color-scheme: light dark; }
body { font: 16px/1.55 system-ui, sans-serif; }
body { max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.7rem; margin-bottom: .3rem; } h2 { font-size: 1.2rem; margin-top: 2.4rem; }
figure { margin: 1rem 0; } img { max-width: 100%; background: white; border-radius: 6px; }
table { border-collapse: collapse; } td, th { padding: .25rem 1rem .25rem 0; text-align: left; }
td.number { text-align: right; font-variant-numeric: tabular-nums; }
pre { background: #8881; padding: .8rem 1rem; border-radius: 6px; overflow-x: auto; }
.headline { font-size: 1.15rem; } .small { opacity: .7; font-size: .85rem; }
"""


@dataclasses.dataclass(frozen=True)
class Section:
    """A part of the page, in this order: title, text, picture, table, commands.

    Attributes:
      title: its heading.
      text: a paragraph.
      picture: a PNG file; None: no picture.
      rows: of a table, name and value; may be empty.
      commands: lines to type; may be empty.
    """

    title: str
    text: str = ""
    picture: Path | None = None
    rows: Sequence[tuple[str, str]] = ()
    commands: Sequence[str] = ()


def write_page(path: Path, title: str, headline: str, sections: Sequence[Section]) -> Path:
    """Write the page, whole or not at all.

    Args:
      path: the file.
      title: of the page.
      headline: the result in a sentence.
      sections: from top to bottom.

    Returns:
      The path.
    """
    body = "\n".join(_section(section) for section in sections)
    page = (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8">\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{html.escape(title)}</title><style>{_STYLE}</style></head>\n"
        f"<body><h1>{html.escape(title)}</h1>\n"
        f'<p class="headline">{html.escape(headline)}</p>\n{body}\n</body></html>\n'
    )
    write_whole(path, page)
    return path


def _section(section: Section) -> str:
    parts = [f"<h2>{html.escape(section.title)}</h2>"]
    if section.text:
        parts.append(f"<p>{html.escape(section.text)}</p>")
    if section.picture is not None:
        data = base64.b64encode(section.picture.read_bytes()).decode()
        title = html.escape(section.title, quote=True)
        parts.append(f'<figure><img alt="{title}" src="data:image/png;base64,{data}"></figure>')
    if section.rows:
        rows = "".join(
            f'<tr><td>{html.escape(name)}</td><td class="number">{html.escape(value)}</td></tr>'
            for name, value in section.rows
        )
        parts.append(f"<table>{rows}</table>")
    if section.commands:
        commands = html.escape("\n".join(section.commands))
        parts.append(f"<pre><code>{commands}</code></pre>")
    return "\n".join(parts)
