"""Execute a notebook and render its page."""

import sys

# nbformat imports jsonschema, which compiles a grammar of internationalised addresses for a second or two. No notebook
# has such a field, and jsonschema leaves out what it cannot import. Everybody else finds it as before.
if "rfc3987_syntax" not in sys.modules:
    sys.modules["rfc3987_syntax"] = None  # type: ignore[assignment]
    import nbformat  # noqa: F401

    del sys.modules["rfc3987_syntax"]
