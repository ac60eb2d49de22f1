"""Deltas on a model: fit them to a fine-tune (`encode`), compute with them (`layers`), swap them (`attach`)."""
