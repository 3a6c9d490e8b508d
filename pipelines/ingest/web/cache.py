"""Responses kept on disk: one file per address and parameters, whole or absent, never one for another."""

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from feature_repo.files import remove_leftovers, sha256_bytes, sha256_json, write_bytes

logger = logging.getLogger(__name__)

LEFTOVER_AGE_S = 3600.0  # nobody writes one answer for so long
KEPT_HEADERS = ("content-type", "etag", "last-modified")


@dataclass(frozen=True)
class Stored:
    """A response as it was kept.

    Attributes:
        status: HTTP status, 200 or 404.
        headers: those of `KEPT_HEADERS` that were sent, names in lower case.
        body: decoded (uncompressed) bytes.
        fetched_at_s: epoch seconds at which the body was downloaded or last confirmed.
    """

    status: int
    headers: dict[str, str]
    body: bytes
    fetched_at_s: float

    def conditions(self) -> dict[str, str]:
        """Request headers that let the service answer 304 where this is still current."""
        pairs = (("If-None-Match", "etag"), ("If-Modified-Since", "last-modified"))
        return {header: self.headers[name] for header, name in pairs if name in self.headers and self.status == 200}


class ResponseCache:
    """Files `<sha256 of address and sorted parameters>.response`: the SHA-256 of what follows, a line of JSON, the body.

    The address begins with the service's base URL: what a wrong one answered is never taken for the right one's word.
    """

    def __init__(self, folder: Path) -> None:
        """Keep responses in `folder`, which is made when it is missing; what killed runs left half written is removed."""
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        remove_leftovers(folder, older_than_s=LEFTOVER_AGE_S)

    def file(self, address: str, params: Mapping[str, str | int]) -> Path:
        """Where the response to `address` with `params` is kept."""
        return self.folder / f"{sha256_json(_key(address, params))}.response"

    def read(self, address: str, params: Mapping[str, str | int]) -> Stored | None:
        """The kept response, or None where there is none or its file is damaged (then it is as if it never was)."""
        file = self.file(address, params)
        try:
            checksum, _, rest = file.read_bytes().partition(b"\n")
        except FileNotFoundError:
            return None
        if checksum.decode("ascii", errors="replace") != sha256_bytes(rest):
            logger.warning("cached_response_damaged file=%s next=download_again", file)
            return None
        line, _, body = rest.partition(b"\n")
        head = json.loads(line)
        if head["key"] != _key(address, params):
            logger.warning("cached_response_of_another_url file=%s next=download_again", file)
            return None
        return Stored(head["status"], head["headers"], body, head["fetched_at_s"])

    def write(self, address: str, params: Mapping[str, str | int], stored: Stored) -> None:
        """Keep `stored`, replacing what was there."""
        head = {
            "key": _key(address, params),
            "status": stored.status,
            "headers": {name: stored.headers[name] for name in KEPT_HEADERS if name in stored.headers},
            "fetched_at_s": stored.fetched_at_s,
        }
        rest = json.dumps(head).encode() + b"\n" + stored.body
        write_bytes(self.file(address, params), sha256_bytes(rest).encode() + b"\n" + rest)


def _key(address: str, params: Mapping[str, str | int]) -> list[object]:
    return [address, [[name, str(value)] for name, value in sorted(params.items())]]
