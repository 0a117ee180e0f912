"""`keys`: what a configuration may say."""

import reprlib
from typing import Annotated, Any

from fd_scale.verbs.verb import Argument, Option, jobs, verb


def print_text(result: str, **given: Any) -> None:
    print(result, end="")


@verb(
    "fd-scale keys distill > mine.yaml\n\n"
    "Each key has its default as value, its meaning above it, and type and range behind it.",
    show=print_text,
)
def keys(
    task: Annotated[str | None, Argument("verb that reads a configuration, such as distill (default: all)")] = None,
    *,
    markdown: Annotated[bool, Option("print a page of documentation, docs/configuration.md, in place of YAML")] = False,
) -> str:
    """List every key that a configuration may have, as commented YAML to start from.

    Returns:
        The text.

    Raises:
        BadInput: no verb of that name reads a configuration.
    """
    from fd_scale.config_keys import as_markdown, as_yaml
    from fd_scale.errors import BadInput

    known = jobs()
    if task is not None and task not in known:
        raise BadInput(f"no task {reprlib.repr(task)}; choose {', '.join(known)}, or leave it out for all")
    owners = {name: job.config_type() for name, job in known.items() if task in (None, name)}
    return as_markdown(owners) if markdown else "---\n".join(as_yaml(name, owner) for name, owner in owners.items())
