"""Small generators of files that people really have, one module a kind: `make(folder)` writes them."""
