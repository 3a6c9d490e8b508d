"""Feast plug-ins: stores that keep to the rule of time. They know Feast and Arrow, and nothing of races."""
