"""What `docs/conformance.md` says of each store, so that tests can hold the stores (and a new Feast) to it."""

from pathlib import Path

_DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "conformance.md"
_SUITES = {"### Offline, with": "offline", "### Offline, Feast": "offline default", "### Online": "online"}
_VERDICTS = {"✓": "right", "✗ wrong": "wrong", "✗ error": "error", "– not supported": "not supported"}


def documented(store: str) -> dict[tuple[str, str], str]:
    """(suite, case) -> verdict of a store, as the tables of the document have it."""
    found: dict[tuple[str, str], str] = {}
    suite, stores = "", []
    for line in _DOCUMENT.read_text(encoding="utf-8").splitlines():
        if line.startswith("##"):
            suite = next((name for title, name in _SUITES.items() if line.startswith(title)), "")
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if not suite or not line.startswith("|") or cells[0].startswith(("---", "**")):
            continue
        if cells[0] == "case":
            stores = cells[1:-1]
        elif store in stores:
            cell = cells[1 + stores.index(store)].removesuffix(" (advisory)")
            if cell in _VERDICTS:
                found[suite, cells[0]] = _VERDICTS[cell]
    return found
