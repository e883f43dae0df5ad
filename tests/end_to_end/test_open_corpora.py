"""gin/data/open.gin from raw files to a train step of every stage, on files in each corpus's own shape."""

from open_corpora import write

STAGES = """
include '{gin}/data/open.gin'
CORPORA = '{corpora}'
DataConfig.tasks_modules = ()
DataConfig.cache_dir = '{cache}'
TrainConfig.stages = (@stable/Stage(), @anneal1/Stage(), @anneal2/Stage(), @long/Stage())
Stage.tokens = 256
Stage.seq_len = 16
Stage.batch_tokens = ((0, 256),)
Stage.microbatch_tokens = 0
Stage.learning_rate_start = 1e-3
Stage.learning_rate_end = 1e-3
"""


def test_from_raw_files_to_a_step_of_every_stage(workdir, tmp_path, repo_root, capsys):
    from small_run import GIN

    write(tmp_path / "corpora")
    text = STAGES.format(gin=repo_root / "gin", corpora=tmp_path / "corpora", cache=tmp_path / "cache")
    for name in ("stable", "anneal1", "anneal2", "long"):
        text += f"{name}/Stage.name = '{name}'\n{name}/Stage.mixture = 'dots_{name}'\n"
    model = "\n".join(line for line in GIN.splitlines() if "Stage" not in line and "tasks_modules" not in line)
    workdir.gin.write_text(model + text)
    assert workdir.train() == 0, capsys.readouterr().err
    rows = [row for row in workdir.rows() if "loss" in row]
    assert [row["step"] for row in rows] == [1, 2, 3, 4]
    assert all(0 < row["loss"] < 7 for row in rows)
    made = {path.parents[2].name for path in (tmp_path / "cache" / "tokens").glob("*/*/train/manifest.json")}
    assert len(made) == 28 and {"web_zh", "code", "web_reasoning"} <= made
    printed = capsys.readouterr()
    assert "web_zh_edu" in printed.out + printed.err
