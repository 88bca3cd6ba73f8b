"""Floor 3: one module a job; each has `run(settings, context, run) -> summary`."""
