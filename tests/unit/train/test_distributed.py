"""Ranks on loopback, started by MLX's own launcher: what they exchange, and how they end when one of them fails."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from launch import launched

from zen_mlx.data.tokens import TokenRow
from zen_mlx.errors import ConfigError
from zen_mlx.train import distributed
from zen_mlx.train.distributed import ProcessGroup

MEMBER = """
import json, os, sys
import zen_mlx
import mlx.core as mx
from zen_mlx.errors import ConfigError, DataError, TrainingError
from zen_mlx.data.loss import Loss
from zen_mlx.train import distributed

distributed.BUFFER_BYTES = 64
team = distributed.process_group()
rank, folder = team.rank, sys.argv[1]
out = {"rank": rank, "size": team.size, "leads": team.leads, "again": distributed.process_group() is team}
like = {"b": mx.zeros((3, 5)), "a": mx.zeros((20,)), "c": mx.zeros((2, 2))}
mine = {name: mx.full(x.shape, rank + 1.5) for name, x in like.items()}

grads = {} if rank else {"a": mx.arange(20.0), "b": mx.ones((3, 5)), "c": mx.ones((2, 2))}
total, tokens, grads = team.sum_step(0.1 + rank, 3 + rank, grads, like)
out["sum"] = [total, tokens, {name: grads[name].tolist() for name in sorted(grads)}]
total, tokens, grads = team.sum_step(1.0, 1, dict(mine), like)
out["both"] = {name: grads[name].sum().item() for name in sorted(grads)}
mean = team.mean(Loss(1.0 + rank, 1 + 2 * rank, 1 + rank))
out["mean"] = [mean.nats, mean.tokens, mean.agreed]
out["any"] = [team.any(False), team.any(rank == 1), team.any(True)]
out["lead"] = team.lead({"text": "x" * 5000} if rank == 0 else None) == {"text": "x" * 5000}
bits = {"a": mx.array([-0.0, float("nan"), 1e-45, -3.0])}
got = team.lead_arrays(bits if rank == 0 else {}, {"a": mx.zeros(4)})["a"]
out["bits"] = got.view(mx.uint32).tolist() == bits["a"].view(mx.uint32).tolist()
held = {name: x + (1e-7 if rank and name == "b" else 0) for name, x in like.items()}
before = team.tell(distributed.digest(held))
team.keep_equal(held)
out["equal"] = [before[0] != before[1], len(set(team.tell(distributed.digest(held)))), held["b"].tolist() == like["b"].tolist()]
team.check_same({"data": "x", "options": {"steps": 3}})

def failing(act):
    try:
        with team.together():
            act()
            team.any(False)
    except Exception as error:
        found = error.to_dict() if hasattr(error, "to_dict") else {"message": str(error)}
        return [type(error).__name__, found, team.error_is_known]

def one(error):
    if rank == 1:
        raise error

out["same"] = failing(lambda: team.check_same({"data": "x", "options": {"steps": 3 + rank}}))
out["typed"] = failing(lambda: one(DataError("a bad row", path="/x", field="row", found=7, hint="mend it")))
out["other"] = failing(lambda: one(ZeroDivisionError("y" * 9000)))
def both():
    raise DataError(f"rank {rank}'s own")
out["all"] = failing(both)
team.any(False)
json.dump(out, open(os.path.join(folder, f"{rank}.json"), "w"))
if rank == 1:
    os._exit(0)
out["lost"] = failing(lambda: None)
json.dump(out, open(os.path.join(folder, "0.json"), "w"))
"""


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    folder = tmp_path_factory.mktemp("team")
    (folder / "member.py").write_text(MEMBER)
    done = launched([str(folder / "member.py"), str(folder)])
    files = [folder / f"{rank}.json" for rank in (0, 1)]
    assert all(file.exists() for file in files), done.stderr
    return [json.loads(file.read_text()) for file in files]


def test_ranks_know_their_place(told: list[dict[str, Any]]) -> None:
    assert [(rank["rank"], rank["size"], rank["leads"], rank["again"]) for rank in told] == [
        (0, 2, True, True),
        (1, 2, False, True),
    ]


def test_sums_are_those_of_all_ranks_and_the_same_on_each(told: list[dict[str, Any]]) -> None:
    for rank in told:
        total, tokens, grads = rank["sum"]
        assert (total, tokens) == (0.1 + 1.1, 7)
        assert grads == {"a": list(range(20)), "b": [[1] * 5] * 3, "c": [[1, 1], [1, 1]]}
        assert rank["both"] == {"a": 80, "b": 60, "c": 16}
        assert rank["mean"] == [(1 + 2 * 3) / 4, 4, 3]
        assert rank["any"] == [False, True, True]


def test_rank_0_hands_out_its_values_bit_for_bit(told: list[dict[str, Any]]) -> None:
    for rank in told:
        assert rank["lead"]
        assert rank["bits"]
        assert rank["equal"] == [True, 1, True]


def test_an_error_of_one_rank_is_everybodys(told: list[dict[str, Any]]) -> None:
    kind, fields, known = told[1]["typed"]
    assert (kind, fields["message"], known) == ("DataError", "a bad row", True)
    kind, fields, known = told[0]["typed"]
    assert (kind, known) == ("DataError", True)
    assert fields == {
        "type": "DataError",
        "message": "rank 1: a bad row",
        "path": "/x",
        "field": "row",
        "found": 7,
        "hint": "mend it",
    }
    assert told[1]["other"][0] == "ZeroDivisionError"
    assert told[0]["other"][0] == "TrainingError"
    assert told[0]["other"][1]["message"] == "rank 1: unexpected ZeroDivisionError: " + "y" * 200
    for rank in told:
        assert rank["same"][0] == "ConfigError"
        assert rank["same"][1]["field"] == "options"
        assert rank["all"] == ["DataError", {"type": "DataError", "message": f"rank {rank['rank']}'s own"}, True]


def test_a_rank_that_is_gone_does_not_hang_the_others(told: list[dict[str, Any]]) -> None:
    kind, fields, known = told[0]["lost"]
    assert kind == "TrainingError"
    assert "connection" in fields["message"]
    assert "--resume" in fields["hint"]
    assert not known


def test_a_process_that_was_not_launched_is_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    hosts = tmp_path / "hosts"
    for name in ("MLX_RANK", "MLX_HOSTFILE", "MLX_WORLD_SIZE", "MLX_IBV_DEVICES", "OMPI_COMM_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    assert distributed.launched() is None
    monkeypatch.setenv("MLX_RANK", "0")
    monkeypatch.setenv("MLX_HOSTFILE", str(hosts))
    hosts.write_text("\n")  # what the launcher writes for one process
    assert distributed.launched() is None
    team = ProcessGroup()
    assert (team.rank, team.size, team.leads) == (0, 1, True)
    arrays = {"w": mx.ones(3)}
    assert team.sum_step(1.5, 2, arrays, arrays) == (1.5, 2, arrays)
    assert team.tell("x") == ["x"]
    assert team.any(True)
    assert team.lead([1]) == [1]
    with pytest.raises(ZeroDivisionError), team.together():
        raise ZeroDivisionError
    hosts.write_text('[["127.0.0.1:5000"], ["127.0.0.1:5001"]]')
    monkeypatch.setenv("MLX_RANK", "1")
    assert distributed.launched() == ("ring", 1)
    monkeypatch.setenv("MLX_WORLD_SIZE", "2")
    assert distributed.launched() == ("nccl", 1)


def test_ranks_that_cannot_be_reached_are_an_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    hosts = tmp_path / "hosts"
    hosts.write_text("no hosts")
    monkeypatch.setenv("MLX_RANK", "0")
    monkeypatch.setenv("MLX_HOSTFILE", str(hosts))
    distributed.process_group.cache_clear()
    try:
        with pytest.raises(ConfigError, match="cannot be reached"):
            distributed.process_group()
    finally:
        distributed.process_group.cache_clear()


@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_rows_are_split_by_tokens(size: int) -> None:
    rng = np.random.default_rng(0)
    rows = [TokenRow(tuple(range(n)), (True,) * n) for n in rng.integers(2, 200, 16).tolist()]
    shares = []
    for rank in range(size):
        team = ProcessGroup()
        team.rank, team.size = rank, size
        shares.append(team.share(rows))
    assert sorted(map(len, (row.ids for share in shares for row in share))) == sorted(len(row.ids) for row in rows)
    loads = [sum(len(row.ids) for row in share) for share in shares]
    assert max(loads) - min(loads) <= max(len(row.ids) for row in rows)
    if size <= 3:
        assert max(loads) < 1.25 * sum(loads) / size
