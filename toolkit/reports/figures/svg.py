"""The few shapes that the figures are drawn with, as an XML tree, so that every text is escaped by construction."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from xml.etree.ElementTree import Element, SubElement, tostring

from edgeproof.types import Array

WIDTH = 360  # units; drawn at about a phone's width, so that a font size of 11 stays legible there
_CHARACTER = 6.4  # average width of a character at that size
_DASHES = ("", "7 3", "2 3", "9 3 2 3")  # next to the colour: equal curves stay visible, and so do they without colour
_COLOURS = 8


@dataclass(frozen=True)
class Figure:
    """An inline SVG with what stands over and under it."""

    caption: str
    svg: str
    notes: tuple[str, ...] = ()


class Drawing:
    """A figure that grows; coordinates are in units from the top left corner."""

    def __init__(self, height: float, *, title: str, description: str, width: float = WIDTH) -> None:
        box = f"0 0 {_number(width)} {_number(height)}"
        self.root = Element("svg", {"viewBox": box, "role": "img", "aria-label": title})
        SubElement(self.root, "title").text = title
        SubElement(self.root, "desc").text = description

    def rect(
        self, x: float, y: float, width: float, height: float, style: str, *, tip: str = "", opacity: float = 1
    ) -> None:
        """Draw a rectangle of a CSS class."""
        element = self._add("rect", style, tip, x=x, y=y, width=width, height=height)
        if opacity < 1:
            element.set("fill-opacity", _number(opacity))

    def line(self, x1: float, y1: float, x2: float, y2: float, style: str) -> None:
        """Draw a straight line."""
        self._add("line", style, "", x1=x1, y1=y1, x2=x2, y2=y2)

    def circle(self, x: float, y: float, radius: float, style: str, *, tip: str = "") -> None:
        """Draw a disc."""
        self._add("circle", style, tip, cx=x, cy=y, r=radius)

    def polyline(self, points: Sequence[tuple[float, float]], style: str, *, dash: str = "") -> None:
        """Draw a line through points."""
        element = self._add("polyline", style, "")
        element.set("points", _points(points))
        if dash:
            element.set("stroke-dasharray", dash)

    def polygon(self, points: Sequence[tuple[float, float]], style: str) -> None:
        """Fill the area between points."""
        self._add("polygon", style, "").set("points", _points(points))

    def text(self, x: float, y: float, text: str, style: str = "", *, tilt: float = 0) -> None:
        """Write a text, its baseline at `y`, tilted by so many degrees."""
        element = self._add("text", style, "", x=x, y=y)
        element.text = text
        if tilt:
            element.set("transform", f"rotate({_number(tilt)} {_number(x)} {_number(y)})")

    def image(self, x: float, y: float, width: float, height: float, href: str) -> None:
        """Place an image without smoothing its pixels."""
        self._add("image", "pixels", "", x=x, y=y, width=width, height=height).set("href", href)

    def __str__(self) -> str:
        return tostring(self.root, encoding="unicode")

    def _add(self, tag: str, style: str, tip: str, **numbers: float) -> Element:
        element = SubElement(self.root, tag, {key: _number(value) for key, value in numbers.items()})
        if style:
            element.set("class", style)
        if tip:
            SubElement(element, "title").text = tip
        return element


def colour(position: int) -> str:
    """Return the CSS class of the colour of the engine at this position, the same in every figure."""
    return f"c{position % _COLOURS}"


def dash(position: int) -> str:
    """Return the dash pattern of the engine at this position."""
    return _DASHES[position % len(_DASHES)]


def shorten(text: str, units: float) -> str:
    """Return the text, cut with an ellipsis where it is longer than so many units at the figures' font size."""
    fits = max(int(units / _CHARACTER), 2)
    return text if len(text) <= fits else text[: fits - 1] + "…"


def text_width(text: str) -> float:
    """Estimate the width of a text in units."""
    return len(text) * _CHARACTER


def png_uri(pixels: Array) -> str:
    """Return an image (H, W), (H, W, 3) or (H, W, 4) of uint8 as a PNG data URI."""
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode("ascii")


def _points(points: Sequence[tuple[float, float]]) -> str:
    return " ".join(f"{_number(x)},{_number(y)}" for x, y in points)


def _number(value: float) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".")
