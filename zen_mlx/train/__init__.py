"""From data to a delta: straight-through sign training."""
