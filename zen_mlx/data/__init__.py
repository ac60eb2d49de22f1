"""From rows to supervised token batches to nats per token."""
