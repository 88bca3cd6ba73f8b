"""Floor 3: one module a job; each has `run(settings, ranks, run) -> summary`."""
