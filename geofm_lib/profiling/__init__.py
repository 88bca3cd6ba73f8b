"""Measure a training step: time, memory, communication, power."""
