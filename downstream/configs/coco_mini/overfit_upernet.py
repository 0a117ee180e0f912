"""upernet_zero3.py on a handful of images, learned by heart: does every part of the path learn?

Source:  ours
Launch:  python tools/overfit_downstream.py upernet --data data
Cost:    not measured yet
Status:  not yet run to its end
"""

_base_ = "upernet_zero3.py"

train_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="LoadAnnotations"),
    dict(type="Resize", scale=(448, 224), keep_ratio=True),
    dict(type="PackSegInputs"),
]
strategy = dict(parallel=dict(recompute="none"))  # small enough to keep everything
model = dict(data_preprocessor=dict(size=None, size_divisor=32))
train_dataloader = dict(batch_size=2, dataset=dict(pipeline=train_pipeline))
train_cfg = dict(max_iters=500, val_interval=100)
param_scheduler = [
    dict(type="LinearLR", start_factor=1e-2, by_epoch=False, begin=0, end=20),
    dict(type="PolyLR", power=1.0, by_epoch=False, begin=20, end=500),
]
default_hooks = dict(checkpoint=dict(interval=100))
