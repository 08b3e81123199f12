"""Elements of an HTML page; text is escaped wherever it comes from."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

VOID = {"img", "image", "rect", "line", "path", "polyline", "br", "meta", "col", "circle"}


class Html(str):
    """Text that is HTML already."""

    __slots__ = ()


def element(name: str, /, *children: str | None, **attributes: object) -> Html:
    """``<name attribute="value">children</name>``.

    Children that are not :class:`Html` are escaped, None is left out. An underscore in the name of an attribute stands
    for a hyphen, and is dropped at its end (``class_``); an attribute that is None is left out.
    """
    values = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(str(value))}"'
        for key, value in attributes.items()
        if value is not None
    )
    if name in VOID:
        return Html(f"<{name}{values}/>")
    return Html(f"<{name}{values}>{joined(children)}</{name}>")


def joined(children: Iterable[str | None]) -> Html:
    """One after the other."""
    return Html("".join(child if isinstance(child, Html) else escape(child) for child in children if child is not None))


def table(
    header: Sequence[str], rows: Iterable[Sequence[str]], *, numbers: Iterable[int] = (), marked: int | None = None
) -> Html:
    """A table; the columns `numbers` are set to the right, the row `marked` stands out."""
    right = set(numbers)

    def line(name: str, cells: Sequence[str], class_: str | None = None) -> Html:
        drawn = [element(name, cell, class_="number" if place in right else None) for place, cell in enumerate(cells)]
        return element("tr", *drawn, class_=class_)

    body = [line("td", row, "marked" if number == marked else None) for number, row in enumerate(rows)]
    drawn = element("table", element("thead", line("th", header)), element("tbody", *body))
    return element("div", drawn, class_="scroll")


def definitions(pairs: Iterable[tuple[str, str]], class_: str | None = None) -> Html:
    """Names and what they mean; pairs without a value are left out."""
    parts = [joined((element("dt", name), element("dd", value))) for name, value in pairs if value]
    return element("dl", *parts, class_=class_)


def section(title: str, *children: str | None, note: str = "") -> Html:
    """A part of the page: its title, what it shows, and a note on how to read it."""
    return element("section", element("h2", title), *children, element("p", note, class_="note") if note else None)
