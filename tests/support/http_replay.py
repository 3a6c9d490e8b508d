"""All that tests of web sources need to stand in for the web: the server, its faults and what services really answered."""

from http_recorded import recorded_jolpica, recorded_livetiming, recorded_openf1, recorded_schedule
from jolpica_pages import jolpica_from_ergast, jolpica_from_folder
from replay_server import (
    Clock,
    Handler,
    ReplayServer,
    Request,
    Response,
    cut_off,
    html_page,
    in_turn,
    once,
    reset,
    server_error,
    slow,
    too_many,
    truncated,
    wrong_type,
)

__all__ = [
    "Clock",
    "Handler",
    "ReplayServer",
    "Request",
    "Response",
    "cut_off",
    "html_page",
    "in_turn",
    "jolpica_from_ergast",
    "jolpica_from_folder",
    "once",
    "recorded_jolpica",
    "recorded_livetiming",
    "recorded_openf1",
    "recorded_schedule",
    "reset",
    "server_error",
    "slow",
    "too_many",
    "truncated",
    "wrong_type",
]
