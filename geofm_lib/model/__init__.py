"""Floor 1: Vision Transformer, masked autoencoder, probe heads."""
