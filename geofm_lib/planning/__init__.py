"""Arithmetic on the catalog's facts: parameters, FLOPs, bytes, seconds."""
