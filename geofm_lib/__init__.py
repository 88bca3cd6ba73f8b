"""geofm: pretrain, profile and probe billion-scale geospatial Vision Transformers from notebooks."""

__version__ = "0.1.0"
