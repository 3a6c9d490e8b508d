"""Takes the pictures of the pages in `docs/img` anew: `python tests/support/screenshots.py HOME`.

HOME is one that `make demo` made, with a champion; it is served on a free port and left as it is. The browser is the one of the
tests in a browser (Chromium, or what `PITWALL_CHROMIUM` names).
"""

import logging
import sys
from dataclasses import dataclass
from pathlib import Path

from browser_site import chromium, served
from playwright.sync_api import Page, sync_playwright

from feature_repo.settings import Settings

IMAGES = Path(__file__).resolve().parents[2] / "docs" / "img"
RACE = "2024_16"
WIDE, PHONE = (1280, 1000), (375, 812)

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Shot:
    """One picture.

    Attributes:
        name: of its file, without `.png`.
        address: of the page.
        size: of the window, CSS pixels.
        scheme: `light` or `dark`.
        scale: pixels a CSS pixel.
    """

    name: str
    address: str
    size: tuple[int, int] = WIDE
    scheme: str = "light"
    scale: float = 1.0


SHOTS = (
    Shot("page_seasons", "/seasons/2024"),
    Shot("page_race", f"/races/{RACE}?lap=35"),
    Shot("page_race_dark", f"/races/{RACE}?lap=35", scheme="dark"),
    Shot("page_race_phone", f"/races/{RACE}?lap=35", size=PHONE, scheme="dark", scale=2.0),
    Shot("page_models", "/models"),
    Shot("page_features", "/features"),
    Shot("page_api", "/docs"),
)


def take(page: Page, shot: Shot, folder: Path) -> Path:
    """Open a page, wait until it has everything, and write its picture."""
    page.goto(shot.address)
    page.wait_for_load_state("networkidle")
    path = folder / f"{shot.name}.png"
    page.screenshot(path=path, animations="disabled", caret="hide")
    return path


def main(home: Path, folder: Path) -> None:
    """Serve a home and write every picture of `SHOTS` into a folder."""
    with served(Settings(home=home)) as url, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(), args=["--no-sandbox"])
        for shot in SHOTS:
            width, height = shot.size
            context = browser.new_context(
                base_url=url,
                viewport={"width": width, "height": height},
                color_scheme="dark" if shot.scheme == "dark" else "light",
                device_scale_factor=shot.scale,
                locale="en-GB",
                timezone_id="UTC",
            )
            context.set_default_timeout(60_000)
            path = take(context.new_page(), shot, folder)
            logger.info("%s, %d kB", path, path.stat().st_size // 1000)
            context.close()
        browser.close()


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    main(Path(sys.argv[1]), IMAGES)
