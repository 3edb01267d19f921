"""Image files: list, decode, check."""
