"""Images at rest and on their way: shards, sample order, decoding, augmentation. Knows no model, no process group."""
