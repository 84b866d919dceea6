"""Numbers about samples that no reward sees, their uncertainty, and models drawn, scored and compared on prompts."""
