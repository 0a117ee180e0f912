"""One self-contained HTML page: what was run, loss curve, table, feature maps side by side."""

import base64
import html
import io
import json
from pathlib import Path

import matplotlib
import yaml
from matplotlib.figure import Figure

from fd_scale.demo.evaluate import Maps, Proof
from fd_scale.errors import BadInput
from fd_scale.files import parse_json, parse_yaml, read_small, write_whole

matplotlib.use("agg")

AGAIN = "remove the demo's folder to start again"
STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #222; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.2rem; margin-top: 2.2rem; }
img { width: 100%; } table { border-collapse: collapse; } td, th { padding: .3rem 1.2rem .3rem 0; text-align: left; }
td.number { text-align: right; font-variant-numeric: tabular-nums; } tr.student { font-weight: 600; }
.bar { background: #3b6fb6; height: .8rem; } pre { background: #f4f4f4; padding: 1rem; overflow-x: auto; }
"""


def write_page(page: Path, run: Path, proof: Proof) -> None:
    """Write `page` and, beside it, the two pictures as PNG."""
    pictures = {"loss": _loss_curve(run / "metrics.jsonl"), "maps": _feature_maps(proof.maps)}
    encoded = {}
    for name, figure in pictures.items():
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=110, bbox_inches="tight")
        write_whole(page.with_name(f"{name}.png"), buffer.getvalue())
        encoded[name] = base64.b64encode(buffer.getvalue()).decode()
    try:
        text = _html(
            proof,
            encoded,
            parse_yaml(read_small(run / "config.yaml")),
            parse_json(read_small(run / "environment.json")),
        )
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise BadInput(f"config.yaml or environment.json in {run} is damaged ({error}); {AGAIN}") from None
    write_whole(page, text)


def _html(proof: Proof, pictures: dict[str, str], config: dict, starts: list[dict]) -> str:
    rows = "".join(
        f"<tr class={'student' if i >= proof.baselines else 'baseline'}><td>{html.escape(name)}</td>"
        f"<td class=number>{share:.1%}</td><td style='width:20rem'><div class=bar style='width:{max(0, share):.1%}'>"
        f"</div></td></tr>"
        for i, (name, share) in enumerate(proof.rows)
    )
    verdict = "The student beats every baseline." if proof.learned else "The student does not beat every baseline."
    last = starts[-1]
    return f"""<!doctype html>
<meta charset=utf-8><title>fd_scale demo</title><style>{STYLE}</style>
<h1>Feature distillation in miniature</h1>
<p>A <b>{html.escape(config["student"]["name"])}</b> student learned the whitened feature map of the frozen teacher
<b>{html.escape(config["teacher"]["spec"])}</b> with DeepSpeed on {last["world"]} processes ({last["device"]}).</p>
<h2>Share of the target's variance explained, {proof.crops} crops of photographs not trained on</h2>
<table>{rows}</table><p>{verdict}</p>
<h2>Loss</h2><img alt="loss curve" src="data:image/png;base64,{pictures["loss"]}">
<h2>Feature maps of held-out photographs</h2>
<p>The first three principal components of the teacher's map as red, green and blue, and the student's prediction in
the same colours.</p>
<img alt="feature maps" src="data:image/png;base64,{pictures["maps"]}">
<h2>What was run</h2><pre>{html.escape(yaml.safe_dump(config, sort_keys=False))}</pre>
<pre>{html.escape(json.dumps(last, indent=1))}</pre>
"""


def _loss_curve(metrics: Path) -> Figure:
    try:
        entries = [parse_json(line) for line in metrics.read_text().splitlines()]
        steps, losses = [entry["step"] for entry in entries], [float(entry["loss"]) for entry in entries]
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise BadInput(f"{metrics} is damaged ({error}); {AGAIN}") from None
    figure = Figure(figsize=(9, 3))
    axes = figure.subplots()
    axes.plot(steps, losses, color="#3b6fb6")
    axes.set(xlabel="step", ylabel="SmoothL1 loss")
    axes.grid(alpha=0.3)
    return figure


def _feature_maps(maps: list[Maps]) -> Figure:
    figure = Figure(figsize=(2.4 * len(maps), 7.2))
    grid = figure.subplots(3, len(maps), squeeze=False)
    for column, entry in enumerate(maps):
        for row, (label, image) in enumerate(
            [("photograph", entry.picture), ("teacher", entry.teacher), ("student", entry.student)]
        ):
            axes = grid[row][column]
            axes.imshow(image.numpy())
            axes.set_xticks([])
            axes.set_yticks([])
            if column == 0:
                axes.set_ylabel(label)
            if row == 0:
                axes.set_title(entry.name, fontsize=10)
    figure.tight_layout()
    return figure
