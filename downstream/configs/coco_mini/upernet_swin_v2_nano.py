"""UperNet with a small SwinV2 on index maps drawn from COCO polygons: proves the path, is no recipe.

Source:  UperNet arXiv 1807.10221 in MMSegmentation; sizes and rates here are ours, chosen for two CPU cores.
Launch:  COCO_MINI=data/coco_mini COCO_MINI_SEMANTIC=data/coco_mini_semantic \
         python -m fd_scale_downstream train downstream/configs/coco_mini/upernet_swin_v2_nano.py
Cost:    not measured to an end; see overfit_htc.py and overfit_upernet.py
Status:  trains and tests in plain mmengine; no result claimed

GroupNorm instead of the published SyncBN: it needs no statistics over the ranks, which torch offers on GPUs only.
"""

custom_imports = dict(imports=["fd_scale_downstream", "fd_scale_downstream.semantic"])
default_scope = "mmseg"

images = "{{$COCO_MINI:data/coco_mini}}/images"
maps = "{{$COCO_MINI_SEMANTIC:data/coco_mini_semantic}}"
num_classes = 81  # background and COCO's 80
crop_size = (224, 224)
norm = dict(type="GN", num_groups=16)
loss = dict(type="CrossEntropyLoss", use_sigmoid=False, avg_non_ignore=True)

model = dict(
    type="EncoderDecoder",
    data_preprocessor=dict(
        type="SegDataPreProcessor",
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        bgr_to_rgb=True,
        size=crop_size,
        pad_val=1.0,  # not 0: see FDSwinV2
        seg_pad_val=255,
    ),
    backbone=dict(type="FDSwinV2", name="swin_v2_nano", patch_size=4, window=7, drop_path=0.0),
    decode_head=dict(
        type="UPerHead",
        in_channels=[24, 48, 96, 192],
        in_index=[0, 1, 2, 3],
        pool_scales=(1, 2, 3, 6),
        channels=64,
        dropout_ratio=0.0,
        num_classes=num_classes,
        norm_cfg=norm,
        align_corners=False,
        loss_decode=dict(**loss, loss_weight=1.0),
    ),
    auxiliary_head=dict(
        type="FCNHead",
        in_channels=96,
        in_index=2,
        channels=64,
        num_convs=1,
        concat_input=False,
        dropout_ratio=0.0,
        num_classes=num_classes,
        norm_cfg=norm,
        align_corners=False,
        loss_decode=dict(**loss, loss_weight=0.4),
    ),
    train_cfg=dict(),
    test_cfg=dict(mode="whole"),
)

train_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="LoadAnnotations"),
    dict(type="RandomResize", scale=(448, 224), ratio_range=(0.75, 1.5), keep_ratio=True),
    dict(type="RandomCrop", crop_size=crop_size, cat_max_ratio=0.75),
    dict(type="RandomFlip", prob=0.5),
    dict(type="PackSegInputs"),
]
test_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="Resize", scale=(448, 224), keep_ratio=True),
    dict(type="LoadAnnotations"),  # after Resize: maps are compared at their own size
    dict(type="PackSegInputs"),
]
dataset = dict(type="IndexMaps", classes=f"{maps}/classes.json")
train_dataloader = dict(
    batch_size=4,
    num_workers=0,
    sampler=dict(type="InfiniteSampler", shuffle=True),
    dataset=dict(**dataset, data_prefix=dict(img_path=images, seg_map_path=f"{maps}/train"), pipeline=train_pipeline),
)
val_dataloader = dict(
    batch_size=1,
    num_workers=0,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(**dataset, data_prefix=dict(img_path=images, seg_map_path=f"{maps}/val"), pipeline=test_pipeline),
)
test_dataloader = val_dataloader
val_evaluator = dict(type="IoUMetric", iou_metrics=["mIoU"])
test_evaluator = val_evaluator

train_cfg = dict(type="IterBasedTrainLoop", max_iters=1000, val_interval=500)
val_cfg = dict(type="ValLoop")
test_cfg = dict(type="TestLoop")
optim_wrapper = dict(
    type="OptimWrapper",
    optimizer=dict(type="AdamW", lr=1e-3, betas=(0.9, 0.999), weight_decay=0.05),
    constructor="FDLayerDecay",
    paramwise_cfg=dict(layer_decay=0.95),
    clip_grad=dict(max_norm=3.0),
)
param_scheduler = [
    dict(type="LinearLR", start_factor=1e-3, by_epoch=False, begin=0, end=50),
    dict(type="PolyLR", power=1.0, by_epoch=False, begin=50, end=1000),
]

default_hooks = dict(
    timer=dict(type="IterTimerHook"),
    logger=dict(type="LoggerHook", interval=10, log_metric_by_epoch=False),
    param_scheduler=dict(type="ParamSchedulerHook"),
    checkpoint=dict(type="CheckpointHook", by_epoch=False, interval=500, save_best="mIoU"),
    sampler_seed=dict(type="DistSamplerSeedHook"),
)
env_cfg = dict(
    cudnn_benchmark=False,
    mp_cfg=dict(mp_start_method="fork", opencv_num_threads=0),
    dist_cfg=dict(backend="{{$FD_SCALE_BACKEND:gloo}}"),
)
visualizer = dict(type="SegLocalVisualizer", vis_backends=[dict(type="LocalVisBackend")], name="visualizer")
log_processor = dict(by_epoch=False)
log_level = "INFO"
randomness = dict(seed=0)
