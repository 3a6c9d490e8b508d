"""Encoders: pictures and tables to fixed-width vectors."""
