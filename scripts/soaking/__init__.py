"""A long rough day for zen serve: clients that leave, send nonsense or nothing, and what must hold meanwhile."""
