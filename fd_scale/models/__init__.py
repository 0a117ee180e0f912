"""Student backbones: images (B, 3, H, W) -> tokens and feature maps. Start reading at `backbone.py`.

swin_v2, vit    ours; `zoo` builds them and timm's by name    from_timm/    any timm model
attention/      how tokens attend, in windows or not          weights/      published weights into a student
"""
