"""OpenF1, the live timing feed as a REST API."""
