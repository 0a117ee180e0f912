"""htc_zero3.py on a handful of images, learned by heart: does every part of the path learn?

Source:  ours
Launch:  python tools/overfit_downstream.py htc --data data
Cost:    not measured yet
Status:  not yet run to its end
"""

_base_ = "htc_zero3.py"

train_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="LoadAnnotations", with_bbox=True, with_mask=True, with_seg=True),
    dict(type="Resize", scale={{_base_.image_scale}}, keep_ratio=True),
    dict(type="PackDetInputs"),
]
strategy = dict(parallel=dict(recompute="none"))  # small enough to keep everything
train_dataloader = dict(batch_size=1, dataset=dict(pipeline=train_pipeline))
train_cfg = dict(max_iters=900, val_interval=300)
optim_wrapper = dict(clip_grad=dict(max_norm=10.0))
param_scheduler = [
    dict(type="LinearLR", start_factor=1e-2, by_epoch=False, begin=0, end=20),
    dict(type="CosineAnnealingLR", by_epoch=False, begin=20, end=900, T_max=880),
]
default_hooks = dict(checkpoint=dict(interval=100))
