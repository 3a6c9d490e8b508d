"""Sources, and the step that writes what they offer into the lake."""

from pipelines.ingest.seasons import parse_rounds, parse_seasons

__all__ = ["parse_rounds", "parse_seasons"]
