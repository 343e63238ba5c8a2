"""Drawn worlds, virtual people, and experiments that judge Palate by a truth that trained nothing."""
