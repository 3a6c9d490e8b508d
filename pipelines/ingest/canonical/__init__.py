"""From raw frames of any source to canonical tables: identities, clocks, knowledge times, books."""
