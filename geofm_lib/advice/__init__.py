"""What a result, a failure or a machine means in words, and what to change."""
