"""How virtual devices run: in one process, on Ray, or behind the nodes of Flower's engine."""
