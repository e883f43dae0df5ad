"""`dots evaluate --suite`: answers that do not depend on batches, resumed after a kill, refused for another run.

Claim: a run that was stopped after any answer ends with the same `items.jsonl`, and runs no finished item again.
Claim: `items.jsonl` is the same, byte for byte, for batches of 1, 2 and 16.
"""

import json
import os

import pytest

from dots_jax.cli.main import main


def run(checkpoint, data, output, *more: str, rows="mmlu,gsm8k") -> int:
    flags = (f"--checkpoint={checkpoint}", f"--data={data}", f"--output={output}", f"--rows={rows}", *more)
    return main(["evaluate", "--suite=table2", *flags])


@pytest.fixture(scope="module")
def complete(checkpoint, data, tmp_path_factory):
    output = tmp_path_factory.mktemp("complete") / "out"
    assert run(checkpoint, data, output, "--batch_size=2") == 0
    return output


def lines(output) -> list[dict]:
    return [json.loads(line) for line in (output / "items.jsonl").read_text().splitlines()]


def test_every_item_has_an_answer_with_its_counts(complete):
    found = lines(complete)
    assert [(line["row"], line["id"]) for line in found] == [
        *(("mmlu", f"art/{n}") for n in range(5)), *(("gsm8k", str(n)) for n in range(3))
    ]  # fmt: skip
    assert all(line["score"] in (0, 1) and line["ended"] in ("stop", "length") for line in found)
    assert found[0]["shots"] == 1 and found[0]["context"].endswith("Answer:") and found[0]["expected"] == "A"
    assert all(line["new_tokens"] <= 16 for line in found[:5]) and len({line["key"] for line in found}) == 8
    results = json.loads((complete / "results.json").read_text())["rows"]
    assert results["mmlu"]["items"] == 5 and results["mmlu"]["counts"]["shots without data"] == 4 * 5
    assert results["mmlu"]["generated"]["score"] == 100 * sum(line["score"] for line in found[:5]) / 5


@pytest.mark.parametrize("batch", [pytest.param(1, marks=pytest.mark.slow), 16])
def test_batches_change_nothing(checkpoint, data, complete, tmp_path, batch):
    assert run(checkpoint, data, tmp_path / "out", f"--batch_size={batch}") == 0
    assert (tmp_path / "out/items.jsonl").read_bytes() == (complete / "items.jsonl").read_bytes()


def test_a_killed_run_goes_on_where_it_was(checkpoint, data, complete, tmp_path, capfd):
    everything = (complete / "items.jsonl").read_bytes()
    ends = [i + 1 for i, byte in enumerate(everything) if byte == ord("\n")]
    for kept in (ends[2], ends[5] + 40):  # after an answer, and inside one
        output = tmp_path / str(kept)
        output.mkdir()
        (output / "run.json").write_bytes((complete / "run.json").read_bytes())
        (output / "items.jsonl").write_bytes(everything[:kept])
        capfd.readouterr()
        assert run(checkpoint, data, output, "--batch_size=2") == 0
        assert (output / "items.jsonl").read_bytes() == everything
        again = int(capfd.readouterr().err.split(" generated")[0].split(", ")[-1].replace(",", ""))
        finished = everything[:kept].count(b"\n")
        assert again == sum(line["new_tokens"] for line in lines(complete)[finished:])


def test_a_finished_run_loads_no_weights(checkpoint, data, complete, capfd):
    assert run(checkpoint, data, complete, "--batch_size=4") == 0
    said = capfd.readouterr()
    assert "generated" not in said.err and "mmlu: " in said.out and len(lines(complete)) == 8


def test_a_missing_file_is_a_row_without_data(checkpoint, data, complete, capfd):
    assert run(checkpoint, data, complete, rows="mmlu,nq") == 0
    assert "nq: no data: " in capfd.readouterr().out
    assert json.loads((complete / "results.json").read_text())["rows"]["nq"].keys() == {"missing"}


def refused(capfd, message: str, *arguments, **more) -> None:
    capfd.readouterr()
    assert run(*arguments, **more) == 2
    said = capfd.readouterr().err
    assert message in said and said.count("\n") == 1, said


def test_another_checkpoint_is_refused_in_one_sentence(checkpoint, data, complete, capfd):
    before = (complete / "items.jsonl").read_bytes()
    refused(capfd, "another run (different: weights)", checkpoint, data, complete, "--step=1")
    refused(capfd, "another run (different: dtype)", checkpoint, data, complete, "--dtype=bfloat16")
    assert (complete / "items.jsonl").read_bytes() == before


def test_bad_flags_and_files_are_one_sentence(checkpoint, data, tmp_path, capfd):
    refused(capfd, "has no row ifeval", checkpoint, data, tmp_path / "out", rows="ifeval")
    refused(capfd, "There is no row nothing", checkpoint, data, tmp_path / "out", rows="nothing")
    refused(capfd, "There is no folder", tmp_path / "none", data, tmp_path / "out")
    assert main(["evaluate", "--suite=table9", "--checkpoint=x", "--data=x", "--output=x"]) == 2
    assert main(["evaluate", "--suite=table2", "--data=x", "--output=x"]) == 2
    bad = tmp_path / "bad/lambada"
    bad.mkdir(parents=True)
    (bad / "lambada_openai.jsonl").write_text('{"context": "a"}\n')
    refused(capfd, "line 1 has no 'continuation'", checkpoint, tmp_path / "bad", tmp_path / "out", rows="lambada")
    twice = tmp_path / "twice/humaneval"
    twice.mkdir(parents=True)
    item = json.dumps({"task_id": "a", "prompt": "def f():\n", "entry_point": "f", "test": "def check(c): pass"})
    (twice / "HumanEval.jsonl").write_text(f"{item}\n{item}\n")
    refused(capfd, "the id 'a' comes twice", checkpoint, tmp_path / "twice", tmp_path / "out", rows="humaneval")
    (tmp_path / "stray").mkdir()
    (tmp_path / "stray/items.jsonl").write_text("{}\n")
    refused(capfd, "has answers but no run.json", checkpoint, data, tmp_path / "stray")
    assert not os.path.exists(tmp_path / "out/items.jsonl") or not (tmp_path / "out/items.jsonl").read_bytes()


def test_a_prompt_that_does_not_fit_loses_shots_and_then_its_left_end(checkpoint, tmp_path):
    folder = tmp_path / "data/mmlu"
    folder.mkdir(parents=True)
    (folder / "long_test.csv").write_text(f"short?,1,2,3,4,A\n{'long ' * 100},1,2,3,4,B\n")
    (folder / "long_dev.csv").write_text(f"{'shot ' * 20},1,2,3,4,A\n" * 5)
    assert run(checkpoint, tmp_path / "data", tmp_path / "out", rows="mmlu") == 0
    short, long = lines(tmp_path / "out")
    assert 0 < short["shots"] < 5 and short["shots"] + short["dropped_shots"] == 5 and short["cut"] == 0
    assert long["shots"] == 0 and long["dropped_shots"] == 5 and long["cut"] > 0
    assert long["prompt_tokens"] + 16 <= 256
