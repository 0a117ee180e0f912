"""Hybrid Task Cascade with its semantic branch, on COCO-format data and index maps: proves the path, is no recipe.

Source:  HTC arXiv 1901.07518; MMDetection's htc_r50_fpn_1x_coco, whose 183 COCO-stuff classes are here the 81 of the
         index maps (background and COCO's 80).
Launch:  COCO_MINI=data/coco_mini COCO_MINI_SEMANTIC=data/coco_mini_semantic \
         python -m fd_scale_downstream train downstream/configs/coco_mini/htc_swin_v2_nano.py
Cost:    not measured to an end; see overfit_htc.py and overfit_upernet.py
Status:  trains and tests in plain mmengine; no result claimed
"""

import os

_base_ = "htc_without_semantic_swin_v2_nano.py"

# An absolute path: the data set would put data_root before any other.
maps = os.path.abspath("{{$COCO_MINI_SEMANTIC:data/coco_mini_semantic}}")
channels = {{_base_.channels}}

model = dict(
    data_preprocessor=dict(pad_seg=True, seg_pad_value=255),
    roi_head=dict(
        semantic_roi_extractor=dict(
            type="SingleRoIExtractor",
            roi_layer=dict(type="RoIAlign", output_size=14, sampling_ratio=0),
            out_channels=channels,
            featmap_strides=[8],
        ),
        semantic_head=dict(
            type="FusedSemanticHead",
            num_ins=5,
            fusion_level=1,
            seg_scale_factor=1 / 8,
            num_convs=4,
            in_channels=channels,
            conv_out_channels=channels,
            num_classes=81,
            loss_seg=dict(type="CrossEntropyLoss", ignore_index=255, loss_weight=0.2),
        ),
    ),
)

train_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="LoadAnnotations", with_bbox=True, with_mask=True, with_seg=True),
    dict(type="Resize", scale={{_base_.image_scale}}, keep_ratio=True),
    dict(type="RandomFlip", prob=0.5),
    dict(type="PackDetInputs"),
]
train_dataloader = dict(dataset=dict(data_prefix=dict(seg=f"{maps}/train/"), pipeline=train_pipeline))
