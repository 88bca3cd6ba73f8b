"""Start runs, watch them, read their folders, queue them. Never imports torch."""
