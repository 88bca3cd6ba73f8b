"""Encoders to and from safetensors, timm and Hugging Face."""
