"""The command line by itself: what its help says, which options go together, and how what went wrong is said."""

import errno
import re
from pathlib import Path

import pytest
import typer
from commands import all_commands
from mlflow.exceptions import MlflowException
from sqlalchemy.exc import OperationalError
from typer.core import TyperCommand

from feature_repo.errors import BadUsageError
from feature_repo.settings import Settings
from pipelines import cli
from pipelines.ingest.choose import choose_source


@pytest.fixture(scope="module")
def commands() -> dict[str, TyperCommand]:
    return all_commands()


def test_commands_of_both_packages_are_there(commands: dict[str, TyperCommand]) -> None:
    assert {"run", "ingest", "skew", "simulator-report", "lookup", "predict", "serve", "replay", "ab-report"} <= set(commands)


def test_every_option_has_a_help_text(commands: dict[str, TyperCommand]) -> None:
    silent = [
        f"{name} {option.opts[0]}"
        for name, command in commands.items()
        for option in command.params
        if not getattr(option, "help", None)
    ]
    assert silent == []


def test_help_is_shown_as_it_was_written(commands: dict[str, TyperCommand]) -> None:
    """Defaults stand in brackets, which some renderers take for markup and leave out."""
    lost = []
    for name, command in commands.items():
        shown = " ".join(command.get_help(typer.Context(command, info_name=name, terminal_width=1000)).split())
        for option in command.params:
            written = " ".join((getattr(option, "help", None) or "").split())
            if written not in shown:
                lost.append(f"{name} {option.opts[0]}: {written}")
        lost += [f"{name}: {found}" for found in re.findall(r"\S* \.(?= |$)|\[\]", shown) if found]
    assert lost == []


def ended(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: Exception) -> tuple[object, str]:
    """Exit code and stderr of the console script where a command raises `error`."""

    def raising() -> None:
        raise error

    monkeypatch.setattr(cli, "app", raising)
    monkeypatch.setattr(cli, "add_commands", lambda: None)
    with pytest.raises(SystemExit) as found:
        cli.main()
    return found.value.code, " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize(
    ("error", "said"),
    [
        pytest.param(FileNotFoundError(errno.ENOENT, "No such file", "/x/a"),
                     "error: /x/a: No such file; check --home and --path", id="absent"),
        pytest.param(PermissionError(errno.EACCES, "Permission denied", "/x/a"),
                     "error: /x/a: Permission denied; check --home and --path", id="not allowed"),
        pytest.param(NotADirectoryError(errno.ENOTDIR, "Not a directory", "/x/a"),
                     "error: /x/a: Not a directory; check --home and --path", id="no folder"),
        pytest.param(OSError(errno.ENOSPC, "No space left on device", "/x/a"),
                     "error: /x/a: No space left on device; make room and run the same command again, what is complete stays",
                     id="disk full"),
        pytest.param(ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused"),
                     "error: [Errno 111] Connection refused", id="refused"),
        pytest.param(OSError(), "error: OSError", id="without a word"),
    ],
)  # fmt: skip
def test_an_error_of_the_system_is_said_with_its_file_and_only_fitting_advice(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: OSError, said: str
) -> None:
    assert ended(monkeypatch, capsys, error) == (1, said)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        pytest.param(MlflowException("API request failed\nwith a long tail"),
                     "error: MLflow: API request failed; check PITWALL_MLFLOW_TRACKING_URI and that what it names answers",
                     id="mlflow"),
        pytest.param(OperationalError("SELECT 1", {}, Exception("connection refused\nIs it running?")),
                     "error: SQL database: (builtins.Exception) connection refused; check PITWALL_REGISTRY_URL and "
                     "PITWALL_MLFLOW_TRACKING_URI and that what they name answers", id="database"),
    ],
)  # fmt: skip
def test_a_server_that_does_not_answer_is_one_line_that_names_the_setting(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: Exception, said: str
) -> None:
    assert ended(monkeypatch, capsys, error) == (1, said)


def test_any_other_error_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def raising() -> None:
        raise RuntimeError("a fault of ours")

    monkeypatch.setattr(cli, "app", raising)
    monkeypatch.setattr(cli, "add_commands", lambda: None)
    with pytest.raises(RuntimeError, match="a fault of ours"):
        cli.main()


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(home=tmp_path / "home")


@pytest.mark.parametrize("option", [{"races": 12}, {"seed": 7}], ids=["races", "seed"])
@pytest.mark.parametrize("name", ["files", "fastf1", "jolpica", "openf1", "livetiming"])
def test_options_of_the_simulator_are_refused_elsewhere(
    settings: Settings, tmp_path: Path, name: str, option: dict[str, int]
) -> None:
    with pytest.raises(BadUsageError, match=f"--races and --seed are for the simulator; --source {name} "):
        choose_source(settings, name, "2024", paths=[tmp_path], **option)


def test_the_simulator_has_its_usual_races_and_the_seed_of_the_settings(settings: Settings) -> None:
    usual, years = choose_source(settings, "simulator", "2")
    given, _ = choose_source(settings, "simulator", "2", races=12, seed=settings.seed)
    assert years == [2023, 2024]
    assert usual.fingerprint() == given.fingerprint()
    other, _ = choose_source(settings, "simulator", "2", races=11)
    assert other.fingerprint() != usual.fingerprint()


@pytest.mark.parametrize(
    "options", [("--path", "."), ("--rounds", "3"), ("--refresh",), ("--races", "3"), ("--seed", "3")], ids=lambda given: given[0]
)
def test_a_report_alone_takes_no_options_of_a_source(options: tuple[str, ...]) -> None:
    command = all_commands()["ingest"]
    with pytest.raises(typer.BadParameter, match=f"{options[0]} says what to read from a source; give --source"):
        command.main(["--report", *options], standalone_mode=False)
