"""Any timm model as a family: its names, its configuration, and weights by timm's own converters."""

from fd_scale.models.backbone import Backbone
from fd_scale.models.config import TIMM_PREFIX, StudentConfig
from fd_scale.models.families.family import Family, check_window
from fd_scale.models.from_timm import TimmStudent
from fd_scale.models.weights.timm_fitting import fitted_timm


def build(config: StudentConfig, image_size: int) -> Backbone:
    """Build a student; see `Family.build`."""
    check_window(config)
    trained = config.weights is not None
    name = config.name.removeprefix(TIMM_PREFIX)
    return TimmStudent(name, image_size, drop_path=config.drop_path, trained=trained, window=config.window)


TIMM = Family(
    title="timm",
    model=TimmStudent,
    build=build,
    weights=fitted_timm,
    keys=frozenset({"window"}),
    other_keys="a timm model has its own",
    final_norm="fresh",
    prefix=TIMM_PREFIX,
)
