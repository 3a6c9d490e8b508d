"""Folders of FastF1, Ergast and f1db files."""
