"""upernet_swin_v2_nano.py in shards: ZeRO-3, recomputation, our checkpoints.

Source:  see there
Launch:  python -m fd_scale_downstream launch --nproc 2 -- train downstream/configs/coco_mini/upernet_zero3.py
Cost:    not measured to an end; see overfit_htc.py and overfit_upernet.py
Status:  trains, stops, resumes and tests in shards on made data; no result claimed
"""

_base_ = "upernet_swin_v2_nano.py"

runner_type = "FDRunner"
strategy = dict(
    type="FDStrategy",
    parallel=dict(deepspeed="deepspeed_configs/zero3.json", precision="fp32", recompute="all"),
)
