"""From shard sets to batches: order, decoding, exact resume."""
