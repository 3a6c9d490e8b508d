"""Asking JSON services: within their limits, patient with their faults, never twice for the same thing."""
