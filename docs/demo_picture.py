"""Draws a run's loss curve against its baselines: `python docs/demo_picture.py runs/tiny docs/assets/demo_loss.svg`.

Needs metrics.jsonl, which `dots_jax.train` writes, and eval.json, which `dots_jax.eval` writes. The baselines are those of
byte-level text, so the run should be one of bytes, as gin/tiny.gin.
"""

import json
import sys
from pathlib import Path


def draw(workdir: Path, picture: Path, task: str = "python_stdlib") -> None:
    from dots_jax.analysis.figures import loss_curve

    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    scores = newest(json.loads((workdir / "eval.json").read_text()))[task]
    figure = loss_curve(
        rows,
        {
            "uniform over 256 bytes": scores["uniform"],
            "byte frequencies": scores["unigram"],
            "held-out text after training": scores["nats_per_byte"],
        },
    )
    figure.savefig(picture, metadata={"Date": None} if picture.suffix == ".svg" else None)


def newest(results: dict) -> dict:
    """eval.json holds the tasks of each step."""
    return results[max(results, key=int)]


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))
    import matplotlib

    matplotlib.rcParams["svg.hashsalt"] = "dots_jax"  # the same ids, hence the same file, every time
    draw(Path(sys.argv[1]), Path(sys.argv[2]))
