"""Student backbones: images (B, 3, H, W) -> tokens and feature maps. Start reading at `backbone.py`."""
