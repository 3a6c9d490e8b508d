"""Jolpica, the Ergast-compatible REST API."""
