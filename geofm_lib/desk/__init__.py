"""The kernel's side: launch, watch, draw, render. Never imports torch."""
