"""What the pages tell a reader to type exists, and so does every file they point to."""

import re
from pathlib import Path

import pytest
from commands import all_commands
from typer.core import TyperCommand

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([ROOT / "README.md", ROOT / "CHANGELOG.md", *(ROOT / "docs").glob("*.md"), *(ROOT / "docs" / "adr").glob("*.md")])
_CODE = re.compile(r"^```.*?^```|`[^`\n]+`", re.DOTALL | re.MULTILINE)
_COMMAND = re.compile(r"(?<![\w.-])pitwall (?P<verb>[a-z][a-z-]*)(?P<rest>[^\n#]*)")
_OPTION = re.compile(r"(?<![\w-])--[a-z][a-z-]*")


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.fixture(scope="module")
def commands() -> dict[str, TyperCommand]:
    return all_commands()


def options_of(command: TyperCommand) -> set[str]:
    return {"--help", *(name for parameter in command.params for name in parameter.opts)}


def told(text: str) -> list[tuple[str, list[str]]]:
    """Verb and options of every `pitwall ...` in a page's code."""
    return [
        (found["verb"], _OPTION.findall(found["rest"]))
        for code in _CODE.findall(text)
        for found in _COMMAND.finditer(code.strip("`"))
    ]


def table_of(text: str, first: str) -> list[str]:
    """First cells of the rows of the table whose header begins with `first`."""
    lines = iter(text.splitlines())
    for line in lines:
        if line.startswith(f"| {first} |"):
            break
    next(lines)
    cells = []
    for line in lines:
        if not line.startswith("|"):
            break
        cells.append(re.split(r"(?<!\\)\|", line)[1])
    return cells


def test_commands_are_found_where_they_stand_in_code() -> None:
    page = "run `pitwall skew --since ...` or\n```bash\n.venv/bin/pitwall run --home real  # --fast\n```\npitwall bake --hot\n"
    assert told(page) == [("skew", ["--since"]), ("run", ["--home"])]


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_command_of_a_page_exists_with_its_options(page: Path, commands: dict[str, TyperCommand]) -> None:
    unknown = [
        f"pitwall {verb} {' '.join(options)}"
        for verb, options in told(page.read_text(encoding="utf-8"))
        if verb not in commands or not set(options) <= options_of(commands[verb])
    ]
    assert unknown == []


def test_the_table_of_commands_has_every_command_with_its_options(commands: dict[str, TyperCommand]) -> None:
    listed: dict[str, set[str]] = {}
    for cell in table_of((ROOT / "README.md").read_text(encoding="utf-8"), "command"):
        for code in re.findall(r"`([^`]+)`", cell):
            listed.setdefault(code.split()[0], set()).update(_OPTION.findall(code))
    assert set(listed) == set(commands)
    wrong = {verb: options - options_of(commands[verb]) for verb, options in listed.items()}
    assert {verb: options for verb, options in wrong.items() if options} == {}


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_link_to_a_file_leads_to_one(page: Path) -> None:
    links = re.findall(
        r"\]\(([^)#\s]+)(?:#[^)]*)?\)", re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.S | re.M)
    )
    broken = [link for link in links if "://" not in link and not (page.parent / link).exists()]
    assert broken == []


@pytest.mark.parametrize("folder", ["docs", "docs/adr"])
def test_the_index_of_a_folder_lists_every_page(folder: str) -> None:
    pages = {page.name for page in (ROOT / folder).glob("*.md")} - {"README.md"}
    index = (ROOT / folder / "README.md").read_text(encoding="utf-8")
    assert {name for name in pages if f"]({name})" not in index} == set()


def test_the_verbs_of_make_are_described() -> None:
    verbs = set(re.findall(r"^([a-z-]+):.*##", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.M)) - {"help"}
    development = table_of((ROOT / "docs" / "development.md").read_text(encoding="utf-8"), "verb")
    assert {cell.strip().strip("`").removeprefix("make ") for cell in development} == verbs
    listed = re.search(r"`make ([a-z-]+(?: · [a-z-]+)*)`", (ROOT / "README.md").read_text(encoding="utf-8"))
    assert listed is not None
    assert set(listed[1].split(" · ")) == verbs
