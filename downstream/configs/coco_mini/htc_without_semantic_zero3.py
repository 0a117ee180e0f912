"""htc_without_semantic_swin_v2_nano.py in shards: ZeRO-3, recomputation, our checkpoints.

Source:  see there
Launch:  as in upernet_zero3.py
Cost:    not measured to an end; see overfit_htc.py and overfit_upernet.py
Status:  a step in shards equals the plain one on made data; not trained for longer
"""

_base_ = "htc_without_semantic_swin_v2_nano.py"

runner_type = "FDRunner"
strategy = dict(
    type="FDStrategy",
    parallel=dict(deepspeed="deepspeed_configs/zero3.json", precision="fp32", recompute="all"),
)
