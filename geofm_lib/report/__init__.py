"""Execute a notebook and render its page."""
