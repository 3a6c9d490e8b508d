"""A home whose services are a replay server: the real sources ask it over a local socket, and nobody waits."""

import contextlib
import functools
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

from replay_server import Clock, Handler, ReplayServer

from feature_repo.settings import Settings
from pipelines.ingest.jolpica import source as jolpica
from pipelines.ingest.openf1 import source as openf1
from pipelines.ingest.web.client import PoliteClient


@contextlib.contextmanager
def replayed_home(folder: Path, *handlers: Handler) -> Iterator[Settings]:
    """The settings of the home `folder`; inside the block `handlers`, asked in their order, answer for Jolpica and OpenF1."""
    clock = Clock(1_790_000_000.0)
    at_once = functools.partial(PoliteClient, sleep=clock.sleep, clock=clock)
    with (
        ReplayServer() as server,
        mock.patch.object(jolpica, "PoliteClient", at_once),
        mock.patch.object(openf1, "PoliteClient", at_once),
    ):
        for handler in handlers:
            server.serve(handler)
        yield Settings(home=folder, jolpica_url=f"{server.url}/ergast/f1", openf1_url=f"{server.url}/v1")
