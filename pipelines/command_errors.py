"""What a command says where the system, or a server it needs, fails it: one line, with what to do where that is known."""

import errno
import sys

_WRONG_PATH = (FileNotFoundError, PermissionError, NotADirectoryError, IsADirectoryError)
_FULL = (errno.ENOSPC, errno.EDQUOT)
_SERVERS = (
    ("mlflow.exceptions", "MlflowException", "MLflow", "PITWALL_MLFLOW_TRACKING_URI and that what it names answers"),
    (
        "sqlalchemy.exc",
        "OperationalError",
        "SQL database",
        "PITWALL_REGISTRY_URL and PITWALL_MLFLOW_TRACKING_URI and that what they name answers",
    ),
)
"""Module, exception, who raises it, what to check."""


def said_of_system(error: OSError) -> str:
    """An error of the operating system: the file it is about, what happened, and advice that fits it."""
    what = f"{error.filename}: {error.strerror}" if error.filename and error.strerror else str(error) or type(error).__name__
    if isinstance(error, _WRONG_PATH):
        return f"{what}; check --home and --path"
    if error.errno in _FULL:
        return f"{what}; make room and run the same command again, what is complete stays"
    return what


def server_errors() -> tuple[type[Exception], ...]:
    """The errors of `_SERVERS`, of the libraries that are loaded: another cannot have raised, and loading takes seconds."""
    return tuple(getattr(sys.modules[module], name) for module, name, *_ in _SERVERS if module in sys.modules)


def said_of_server(error: Exception) -> str:
    """One of `server_errors`: the first line of what it says, and the setting that names the server."""
    who, check = next(
        (who, check)
        for module, name, who, check in _SERVERS
        if module in sys.modules and isinstance(error, getattr(sys.modules[module], name))
    )
    first = str(error).strip().partition("\n")[0] or type(error).__name__
    return f"{who}: {first}; check {check}"
