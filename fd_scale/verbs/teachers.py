"""`teachers`: which teachers there are."""

from typing import Annotated

from fd_scale.progress import bar
from fd_scale.verbs.verb import Argument, print_result, verb


@verb(
    "fd-scale teachers '*dinov2*'\n\nEach is really built, without memory for its weights; all take a minute.",
    show=print_result,
)
def teachers(pattern: Annotated[str, Argument("pattern of their names (default: all)")] = "*") -> str:
    """List the teachers that can be had, with size, grid, prefix tokens, pixel statistics and licence.

    Returns:
        The table. Each teacher in it was built without memory for its weights.
    """
    from fd_scale.teachers.listing import rows, table

    return table(rows(pattern, bar("teacher")))
