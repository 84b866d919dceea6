"""The only door to matplotlib."""
