"""Points in the plane: the ring, its rewards and methods, the demo and its report."""
