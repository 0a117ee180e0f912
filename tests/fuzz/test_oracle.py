"""The judge of the fuzz: what it lets pass, and what it does not."""

import json

import pytest
from fuzz.oracle import Account, Case, complaint

TRACEBACK = "Traceback (most recent call last):\n  File x\nKeyError: 1\n"
CASE = Case("a value", ["plan", "a config"])


@pytest.mark.parametrize(
    ("code", "errors", "said"),
    [
        (0, "", None),
        (0, "step 1/2\nwarning: x\n", None),
        (2, "fd-scale: no such file\n", None),
        (75, "resuming from x\nfd-scale: storage is away\n", None),
        (0, TRACEBACK, "exit 0 with a traceback"),
        (2, f"{TRACEBACK}fd-scale: no such file\n", "exit 2 with a traceback"),
        (2, "", "exit 2 with 0 lines"),
        (2, "fd-scale: a\nfd-scale: b\n", "exit 2 with 2 lines"),
        (2, f"fd-scale: {'x' * 9999}\n", "with a line of 10009 letters"),
        (1, TRACEBACK, "exit 1: "),
        (-9, "", "exit -9: "),
        (-24, "", "exit -24: "),  # out of core time
    ],
)
def test_an_end_outside_the_contract_is_a_complaint(code, errors, said):
    found = complaint(CASE, code, errors)
    assert found is None if said is None else found is not None and said in found


def test_taking_what_must_be_refused_is_a_complaint():
    assert complaint(Case("x", [], must_fail=True), 0, "") == "was taken"


@pytest.mark.parametrize("loss", [float("nan"), float("inf")])
def test_success_with_numbers_that_are_not_finite_is_a_complaint(tmp_path, loss):
    (tmp_path / "metrics.jsonl").write_text(json.dumps({"step": 1, "loss": loss}) + "\n")
    assert complaint(Case("x", [], folder=tmp_path), 0, "") == f"exit 0 with loss = {loss}"


def test_a_failure_gives_the_command_that_tries_it_again(monkeypatch):
    monkeypatch.delenv("FD_SCALE_FUZZ_LOG", raising=False)
    account = Account()
    account.add(CASE, "exit 0", None)
    account.close("all well")
    account.add(Case("RANK=", ["plan", "a b"], {"RANK": "", "PATH": None}), "exit 1", "exit 1: KeyError")
    with pytest.raises(AssertionError, match="1 inputs:\nRANK=: exit 1: KeyError\n    env RANK= fd-scale plan 'a b'"):
        account.close("not well")
