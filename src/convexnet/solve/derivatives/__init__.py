"""Derivatives of a minimum and of its minimiser, for automatic differentiation."""
