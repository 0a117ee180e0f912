"""Student backbones: images (B, 3, H, W) -> tokens and feature maps. Start reading at `backbone.py`.

backbone        what each student offers              zoo           students by name
swin_v2, vit    ours; swin_v2_blocks: parts of one    from_timm/    any timm model
families/       one record for each family            weights/      published weights into a student
attention/      how tokens attend, in windows or not  classifier    a backbone with a linear head
init            by parameter                          depth         of each parameter, for layer decay
drop_path       keyed by sample                       precision     which type each buffer has beside bf16 parameters
activation_bytes  what a block keeps                  config        imports no torch
"""
