"""A seeded race simulator: fictional seasons in the canonical tables, the embedded default source of data."""
