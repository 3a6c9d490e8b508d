"""The FastF1 library."""
