"""Drawn worlds, virtual people and the experiments that judge Palate by a truth which took no part in training."""
