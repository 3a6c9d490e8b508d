"""One fixed palette for every picture, and PNG bytes from pixels through a lookup table.

A picture has few colours: a handful of inks and their anti-aliased blends. Choosing 256 of them once, instead of quantising
each picture, makes equal pixels equal bytes in every picture and costs a table lookup.
"""

import functools
import itertools
import struct
import zlib

import numpy as np
from numpy.typing import NDArray

WIDTH, HEIGHT = 800, 600

WHITE = (255, 255, 255)
GRID = (222, 222, 222)
INK = (40, 40, 40)
TRACE = (20, 70, 170)
MEAN = (240, 100, 0)
BEST = (0, 140, 60)
WORST = (190, 0, 140)
CLIPPED = (110, 110, 110)

# Ramps between the inks that border each other in every picture, with their numbers of steps; the places left in the palette go
# to the blends of three inks (a marker on a line on white) that the ramps serve worst.
_RAMPS = (
    (WHITE, INK, 22),
    (WHITE, TRACE, 28),
    (GRID, TRACE, 14),
    (WHITE, MEAN, 22),
    (GRID, MEAN, 10),
    (TRACE, MEAN, 20),
    (WHITE, BEST, 18),
    (WHITE, WORST, 18),
)
_BLENDS = (
    (WHITE, TRACE, BEST),
    (WHITE, TRACE, WORST),
    (WHITE, TRACE, MEAN),
    (WHITE, TRACE, CLIPPED),
    (WHITE, MEAN, WORST),
    (WHITE, MEAN, BEST),
    (WHITE, CLIPPED, WORST),
    (WHITE, INK, WORST),
    (WHITE, INK, CLIPPED),
    (WHITE, INK, TRACE),
    (WHITE, INK, MEAN),
)
_BLEND_STEPS = 12
_BITS = 6

ByteArray = NDArray[np.uint8]


@functools.cache
def palette() -> ByteArray:
    """(256, 3) uint8 RGB; entry 0 is white."""
    colours = [WHITE, GRID, INK, TRACE, MEAN, BEST, WORST, CLIPPED]
    for start, end, steps in _RAMPS:
        for k in range(1, steps):
            red, green, blue = (round(a + (b - a) * k / steps) for a, b in zip(start, end, strict=True))
            colours.append((red, green, blue))
    chosen = np.array(list(dict.fromkeys(colours)), dtype=np.int64)
    shares = [(i, j, _BLEND_STEPS - i - j) for i in range(_BLEND_STEPS + 1) for j in range(_BLEND_STEPS + 1 - i)]
    blends = (np.array(shares) @ np.array(_BLENDS)).reshape(-1, 3) // _BLEND_STEPS
    distance = np.min([np.abs(blends - colour).max(axis=1) for colour in chosen], axis=0)
    while len(chosen) < 256:
        worst = blends[int(np.argmax(distance))]
        chosen = np.vstack([chosen, worst])
        distance = np.minimum(distance, np.abs(blends - worst).max(axis=1))
    table = chosen.astype(np.uint8)
    table.setflags(write=False)
    return table


@functools.cache
def _nearest() -> ByteArray:
    """(2^18,) palette index nearest to the middle of each cell of 4x4x4 colours."""
    cell = 1 << (8 - _BITS)
    levels = np.minimum(np.arange(1 << _BITS) * cell + cell / 2, 255.0).astype(np.float32)
    # White is exact: its cell's middle is nearer to no other entry, because the ramps leave white by more than a cell.
    colours = palette().astype(np.float32)
    best = np.full((1 << _BITS,) * 3, np.inf, dtype=np.float32)
    index = np.zeros(best.shape, dtype=np.uint8)
    for number, (red, green, blue) in enumerate(colours):
        distance = ((levels - red) ** 2)[:, None, None] + ((levels - green) ** 2)[:, None] + (levels - blue) ** 2
        closer = distance < best
        best[closer] = distance[closer]
        index[closer] = number
    flat = index.reshape(-1)
    for number, (red, green, blue) in enumerate(palette()[:8]):
        flat[int(_cell(np.uint32(int(red) | int(green) << 8 | int(blue) << 16)))] = number
    flat.setflags(write=False)
    return flat


def _cell(rgba: NDArray[np.uint32] | np.uint32) -> NDArray[np.uint32]:
    """Cell number of little-endian RGBA words."""
    shift, mask = 8 - _BITS, (1 << _BITS) - 1
    red = (rgba >> np.uint32(shift)) & np.uint32(mask)
    green = (rgba >> np.uint32(8 + shift)) & np.uint32(mask)
    blue = (rgba >> np.uint32(16 + shift)) & np.uint32(mask)
    return np.asarray(red << np.uint32(2 * _BITS) | green << np.uint32(_BITS) | blue)


def palette_index(rgba: NDArray[np.uint32]) -> ByteArray:
    """Palette index of each little-endian RGBA word, same shape."""
    return _nearest()[_cell(rgba)]


def encode_png(index: ByteArray) -> bytes:
    """PNG of a (600, 801) index image whose first column is 0, the filter byte of each row."""
    header = struct.pack(">IIBBBBB", WIDTH, HEIGHT, 8, 3, 0, 0, 0)
    # Run lengths are all there is to find in flat areas: as fast as level 1 and a tenth smaller (measured on traces).
    deflate = zlib.compressobj(level=1, wbits=15, memLevel=9, strategy=zlib.Z_RLE)
    body = deflate.compress(index.tobytes()) + deflate.flush()
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        _chunk(kind, content)
        for kind, content in ((b"IHDR", header), (b"PLTE", palette().tobytes()), (b"IDAT", body), (b"IEND", b""))
    )


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def as_hex(colour: tuple[int, int, int]) -> str:
    """`(20, 70, 170)` -> `#1446aa`, the form Matplotlib takes."""
    return "#" + "".join(f"{channel:02x}" for channel in itertools.chain(colour))
