"""Clients and server as Flower apps: the same functions, in Flower's simulation or on machines of a real deployment."""
