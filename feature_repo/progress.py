"""How a step tells how far it is: a callback, so that no step knows who shows it."""

from collections.abc import Callable

Progress = Callable[[str, int, int], None]
"""What is being done, how many are done, how many there are (0: not known)."""
