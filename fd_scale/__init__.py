"""Feature distillation (arXiv 2205.14141) of pretrained vision models, from a laptop CPU to many nodes."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fd_scale.api import distill as distill
    from fd_scale.api import finetune as finetune

__version__ = "0.1.0"

OFFERED = ("distill", "finetune")
"""Functions of `fd_scale.api` that the package offers as its own. No module may have one of these names."""


def __getattr__(name: str) -> Any:
    """Import `fd_scale.api` only for who asks for a function of it."""
    if name in OFFERED:
        from fd_scale import api

        return getattr(api, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*globals(), *OFFERED]
