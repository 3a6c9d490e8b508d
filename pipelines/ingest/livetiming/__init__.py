"""Recorded streams of F1 live timing."""
