"""A miniature text-to-image world: scenes with captions, an oracle that reads them, and models of SDXL's classes."""
