"""Images at rest and on their way: shards, sample order, decoding, augmentation. Knows no model, no process group.

The reading path:
shards      the format; checked: its fields       regular     its files, by name
order       which sample comes when               reader      samples by number; classes: what they are called
decode      bytes to pixels                       view        crop, flip, normalise; augment: more, for fine-tuning
loader      micro-batches; loading: its workers   evaluation  each image once
mixing      mixup, cutmix, erasing, on the device config      imports no torch

For packing as well:
image_bytes, tars   what is asked of bytes that come from outside
numbering           names and numbers of classes, one rule for all sources
item, left_out      one image of a source; what is not taken, counted

packing/ writes what this path reads.
"""
