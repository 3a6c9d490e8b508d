"""All that tests of web sources need to stand in for the web: the server, its faults and what services really answered."""

from replay_server import (
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
    "Handler",
    "ReplayServer",
    "Request",
    "Response",
    "cut_off",
    "html_page",
    "in_turn",
    "once",
    "reset",
    "server_error",
    "slow",
    "too_many",
    "truncated",
    "wrong_type",
]
