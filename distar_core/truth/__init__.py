"""Answers that no network gives: quadrature, densities on a grid, Gaussians in closed form."""
