"""Who differs in what, before the first step. Two real processes are in test_multiprocess.py."""

import importlib.metadata

from dots_jax.parallel.agreement import code_version, disagreements, require_agreement, software


def process(host: str, **facts) -> dict:
    return {"host": host, "facts": facts}


def test_nothing_to_say_where_all_agree():
    assert disagreements([process("a", data="1", config="2"), process("b", config="2", data="1")]) == []
    require_agreement({"data": object()})  # a single process has no other to differ from


def test_the_odd_one_out_is_named():
    same = [process(host, data="1") for host in "abc"]
    assert disagreements([*same, process("d", data="2")]) == ["data of process 3 (d) is not that of process 0 (a)"]
    assert disagreements([process("d", data="2"), *same]) == ["data of process 0 (d) is not that of process 1 (a)"]
    assert disagreements([process("a", data="1"), process("b", data="2")]) == [
        "data of process 1 (b) is not that of process 0 (a)"
    ]
    (sentence,) = disagreements([*same, process("d")])
    assert sentence == "data of process 3 (d) is not that of process 0 (a)"  # missing is different
    many = [process("a", x="1")] * 9 + [process("b", x=str(i)) for i in range(10, 15)]
    assert "process 9 (b), process 10 (b), process 11 (b) and 2 more" in disagreements(many)[0]


def test_software_names_what_decides_the_result(monkeypatch):
    before = software()
    assert before["the version of jax"] == importlib.metadata.version("jax") and len(code_version()) == 64
    monkeypatch.setenv("LIBTPU_INIT_ARGS", "--x=1")
    after = software()
    assert [name for name in after if before[name] != after[name]] == ["the variable LIBTPU_INIT_ARGS"]
