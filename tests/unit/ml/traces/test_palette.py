"""One palette for all pictures: its size, its exact inks, and that PNGs are well-formed."""

import io
import zlib

import numpy as np
from PIL import Image

from ml.traces.palette import BEST, CLIPPED, GRID, INK, MEAN, TRACE, WHITE, WORST, encode_png, palette, palette_index


def word(colour: tuple[int, int, int]) -> int:
    return colour[0] | colour[1] << 8 | colour[2] << 16 | 255 << 24


def test_inks_are_exact() -> None:
    assert palette().shape == (256, 3)
    for ink in (WHITE, GRID, INK, TRACE, MEAN, BEST, WORST, CLIPPED):
        index = palette_index(np.array([word(ink)], dtype=np.uint32))
        assert tuple(palette()[index[0]]) == ink


def test_blends_of_two_inks_that_meet_are_within_10_levels() -> None:
    for start, end in ((WHITE, INK), (WHITE, TRACE), (WHITE, MEAN), (GRID, TRACE), (WHITE, BEST), (WHITE, WORST), (TRACE, MEAN)):
        shares = np.linspace(0.0, 1.0, 97)[:, None]
        blends = np.round(np.array(start) * (1 - shares) + np.array(end) * shares).astype(int)
        words = np.array([word(tuple(blend)) for blend in blends.tolist()], dtype=np.uint32)
        assert np.abs(palette()[palette_index(words)].astype(int) - blends).max() <= 10


def test_png_round_trips() -> None:
    index = np.zeros((600, 801), dtype=np.uint8)
    index[:, 1:] = np.random.default_rng(0).integers(0, 256, (600, 800))
    image = Image.open(io.BytesIO(encode_png(index)))
    image.load()
    assert (np.asarray(image) == index[:, 1:]).all()
    assert zlib.crc32(encode_png(index)) == zlib.crc32(encode_png(index))
