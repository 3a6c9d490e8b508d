"""A line of text that is drawn quickly: kept glyphs of Matplotlib's own DejaVu Sans, blended by Matplotlib's renderer.

`matplotlib.text.Text` lays out and rasterises every glyph anew for every string, 2 ms a line, more than the rest of a picture
(measured on Matplotlib 3.11); titles and statistics differ in every picture, so no cache helps.
"""

import functools
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.artist import Artist
from matplotlib.backend_bases import RendererBase
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

_OVERHANG = 2  # pixels a glyph may reach beyond its advance


class Label(Artist):
    """One line of text at a fixed place of the figure."""

    def __init__(
        self,
        x: int,
        y: int,
        colour: tuple[int, int, int],
        *,
        size: int,
        bold: bool = False,
        align: float = 0.0,
        upright: bool = False,
    ) -> None:
        """An empty label.

        Args:
            x: pixels from the left edge of the figure to the anchor.
            y: pixels from the bottom edge to the baseline.
            colour: RGB 0..255.
            size: font size, pixels.
            bold: bold weight.
            align: share of the text that lies before the anchor: 0 starts there, 0.5 is centred, 1 ends there.
            upright: read from bottom to top.
        """
        super().__init__()
        self._x, self._y, self._colour, self._align = x, y, colour, align
        self._size, self._bold, self._upright = size, bold, upright
        self._text = ""

    def set_text(self, text: str) -> None:
        """Show `text`; control characters would break the line and are left out."""
        self._text = "".join(character for character in text if character.isprintable())
        self.stale = True

    def draw(self, renderer: RendererBase) -> None:
        """Blend the text onto the canvas."""
        if not self._text or not self.get_visible():
            return
        glyphs = [_glyph(self._size, self._bold, character) for character in self._text]
        width = sum(advance for _, advance in glyphs)
        image = np.empty((len(glyphs[0][0]), width + 2 * _OVERHANG, 4), dtype=np.uint8)
        image[..., :3] = self._colour
        alpha = image[..., 3]
        alpha.fill(0)
        at = 0
        for mask, advance in glyphs:
            cell = alpha[:, at : at + mask.shape[1]]
            np.maximum(cell, mask, out=cell)
            at += advance
        context = renderer.new_gc()
        # Images are placed by their lower left corner, with rows from the top down turned over.
        before, below = round(self._align * width) + _OVERHANG, self._size // 2
        if self._upright:
            renderer.draw_image(context, self._x - len(image) + below, self._y - before, np.rot90(image)[::-1])
        else:
            renderer.draw_image(context, self._x - before, self._y - below, image[::-1])
        context.restore()
        self.stale = False


def text_width(text: str, size: int, *, bold: bool) -> int:
    """Pixels that a label of `text` takes."""
    return sum(_glyph(size, bold, character)[1] for character in text if character.isprintable())


@functools.lru_cache(maxsize=2048)
def _glyph(size: int, bold: bool, character: str) -> tuple[NDArray[np.uint8], int]:
    """Coverage of one character, (2 * size, advance + 2 * overhang) uint8, baseline half a size above the bottom; and advance."""
    font = _font(size, bold)
    advance = round(font.getlength(character))
    canvas = Image.new("L", (advance + 2 * _OVERHANG, 2 * size), 0)
    ImageDraw.Draw(canvas).text((_OVERHANG, 2 * size - size // 2), character, fill=255, font=font, anchor="ls")
    return np.asarray(canvas), advance


@functools.cache
def _font(size: int, bold: bool) -> ImageFont.FreeTypeFont:
    """Matplotlib ships this font, so the text does not depend on what is installed on the machine."""
    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    path = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / name
    return ImageFont.truetype(str(path), size, layout_engine=ImageFont.Layout.BASIC)
