"""The leak probe: takes the future away, computes everything again, and demands the same answers bit for bit."""
