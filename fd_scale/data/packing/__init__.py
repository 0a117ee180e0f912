"""From images in any source to the shards that training reads, and back again to check them."""
