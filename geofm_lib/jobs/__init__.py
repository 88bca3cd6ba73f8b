"""One module a job; each has `run(settings, context, run) -> summary`."""
