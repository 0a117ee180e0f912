"""`fd-scale` with a student of a few thousand parameters; by `tools/make_older_run` and `test_older_runs.py`.

It runs as a script with the code of any revision since the first of `tests/reference/older_runs`.
"""

from fd_scale.cli import main
from fd_scale.models.swin_v2 import SIZES, SwinV2Size

SIZES["swin_v2_nano"] = SwinV2Size(4, (1, 1, 1, 1), (1, 1, 1, 1), window=4, patch_size=2)
main()
