"""From raw footage to shard sets."""
