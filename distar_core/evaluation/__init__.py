"""Numbers about samples that no reward sees, and their uncertainty."""
