"""Packing: from images in any source to the shards that training reads, and back again to check them.

sources       folders, archives, lists -> items     archives, lists  two of the sources
pack          items -> shards, at random positions  shard_writer     one shard
workers       the processes that write              partial          the folder of shards that are not all there yet
index         shards of others, described in place  verify           all of it, read again
"""

SHARD_SAMPLES = 1000
"""Images in a shard, where nobody says how many."""
