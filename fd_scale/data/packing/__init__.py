"""From images in any source to the shards that training reads, and back again to check them."""

SHARD_SAMPLES = 1000
"""Images in a shard, where nobody says how many."""
