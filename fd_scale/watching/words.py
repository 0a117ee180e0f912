"""What `fd-scale status` says to people: one block of lines for each run."""

from fd_scale.watching.state import RunState

SLOW = 1.25
"""Of the median's own time, from which a rank is called slow."""
OF_ITSELF = ("loss", "learning_rate", "images_per_second")
"""Values that have a place of their own."""


def in_words(run: RunState) -> str:
    share = f" of {run.steps} ({100 * run.step / run.steps:.0f} %)" if run.steps else ""
    lines = [("state", f"{run.state}: {run.alive}" if run.state == "running" else _at_rest(run))]
    lines.append(("step", f"{run.step}{share}{_ago(run.age_seconds, ', logged ')}"))
    values = [_value(name, run.values[name]) for name in OF_ITSELF if name in run.values]
    values += [
        _value(name, value) for name, value in run.values.items() if name not in OF_ITSELF and _matters(name, value)
    ]
    if values:
        lines.append(("values", ", ".join(values)))
    if run.seconds_left is not None:
        lines.append(("left", duration(run.seconds_left)))
    if run.checkpoint:
        lines.append(("checkpoint", f"step {run.checkpoint.step}{_ago(run.checkpoint.age_seconds, ', written ')}"))
    else:
        lines.append(("checkpoint", "none yet"))
    lines.append(("starts", f"{run.starts}" + (f" ({run.starts - 1} of them restarts)" if run.starts > 1 else "")))
    if run.hosts:
        lines.append(("hosts", ", ".join(f"{host} ({_ranks(ranks)})" for host, ranks in run.hosts.items())))
    if run.slowest and sum(map(len, run.hosts.values())) > 1:
        slow = run.slowest
        who = f"rank {slow.rank} on {slow.host}, {slow.ratio:.2f} times the median"
        who += f" ({slow.seconds:.3g} s of its own a step)"
        lines.append(("slowest", who if slow.ratio >= SLOW else f"none stands out: {who}"))
    if run.failure:
        lines.append(("failure", f"{run.failure.when}, rank {run.failure.rank}: {run.failure.line}"))
    width = max(len(name) for name, _ in lines)
    return "\n".join([run.folder, *(f"  {name:<{width}}  {text}" for name, text in lines)])


def duration(seconds: float) -> str:
    """Duration in its two largest units."""
    minutes, rest = divmod(max(0, round(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days} d {hours} h"
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def _at_rest(run: RunState) -> str:
    texts = {
        "complete": "complete",
        "stopped": "stopped as asked, after saving; the same command resumes it",
        "ended": f"ended before it was done: {run.alive}; the same command resumes it",
        "not begun": "not begun",
    }
    return texts[run.state]


def _matters(name: str, value: float) -> bool:
    """What is counted is said once there is some of it."""
    return not (name.startswith(("bad_samples", "loss_spikes")) and value == 0)


def _value(name: str, value: float) -> str:
    return f"{name.replace('_', ' ')} {value:.4g}"


def _ago(seconds: float | None, words: str) -> str:
    return "" if seconds is None else f"{words}{duration(seconds)} ago"


def _ranks(ranks: list[int]) -> str:
    """A host has neighbouring ranks; whatever it has is said."""
    if len(ranks) == 1:
        return f"rank {ranks[0]}"
    if ranks == list(range(ranks[0], ranks[-1] + 1)):
        return f"ranks {ranks[0]} to {ranks[-1]}"
    return f"ranks {', '.join(map(str, ranks))}"
