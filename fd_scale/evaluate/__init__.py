"""What a backbone or a classifier is worth on labelled images: features, kNN, linear probe, validation, WiSE-FT."""
