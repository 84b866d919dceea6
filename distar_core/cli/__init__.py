"""What speaks to a person at a terminal."""
