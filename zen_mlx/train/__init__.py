"""From data to a delta: signs and factors under the straight-through estimator."""
