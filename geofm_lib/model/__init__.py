"""Vision transformers, the masked autoencoder, probe heads, and their files in other libraries' formats."""
