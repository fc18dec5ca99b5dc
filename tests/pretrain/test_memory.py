"""A training that cannot fit is refused before it starts, with the numbers."""

import re
from pathlib import Path

import pytest
import torch

from caspr_spark.config import ModelSection
from caspr_spark.errors import ConfigError
from caspr_spark.manifest import CategoricalAttribute
from caspr_spark.model import kernels
from caspr_spark.model.network import Network
from caspr_spark.pretrain import memory
from caspr_spark.pretrain.job import Job
from caspr_spark.pretrain.launch import pretrain
from tests.pretrain.planted import (
    FUTURE,
    FilePlan,
    layout_of,
    model_section,
    planted_rows,
    planted_scaling,
    pretrain_section,
    write_planted,
)

GIB = 2**30


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_planted(tmp_path / "sequences", [FilePlan("training", (60,))])
    return tmp_path / "sequences"


def test_what_does_not_fit_is_refused_before_anything_is_written(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "available_bytes", lambda: 10 * 2**20)
    with pytest.raises(ConfigError, match="pretrain: 1 worker would need") as refused:
        pretrain(folder, model=model_section(), pretrain=pretrain_section(), seed=1, root=tmp_path, progress=None)
    said = str(refused.value)
    assert "0.0 GiB are free here" in said
    assert len(re.findall(r"  - [0-9.]+ GiB a worker: ", said)) == 2
    assert "min_count ('labels' alone has 10)" in said
    assert not list((tmp_path / "checkpoints").glob("*/weights.safetensors"))


@pytest.mark.parametrize("threads", [1, 4])
@pytest.mark.parametrize("model", [{}, FUTURE], ids=["masked", "future"])
def test_a_million_values_cost_their_rows_and_no_gradient_of_all(model: dict[str, object], threads: int) -> None:
    large = needed(model_section(**model), num_ids=1_000_000, threads=threads)
    small = needed(model_section(**model), num_ids=10_000, threads=threads)

    embeddings = 64 + (17 if not model else 0)  # and the heads of masked recovery, with a bias
    assert sum(large.values()) > 4 * 4 * embeddings * 1_000_000  # weights, two moments and the best, four bytes each
    assert sum(large.values()) < 4 * 4 * embeddings * 1_000_000 + sum(small.values()) + GIB / 10


def test_small_heads_of_long_histories_keep_no_score_of_each_pair() -> None:
    """Neither what is compiled nor torch's attention does."""
    how = {"width": 16, "num_heads": 8, "encoder_layers": 6, "decoder_layers": 6}
    assert sum(needed(model_section(**how), num_ids=1_000, threads=2, max_events=1024).values()) < GIB


def test_narrow_blocks_keep_less_but_nothing_else_does(monkeypatch: pytest.MonkeyPatch) -> None:
    how = {"width": 16, "num_heads": 8, "feed_forward": 32, "encoder_layers": 6, "decoder_layers": 6}
    narrow, forgetting = model_section(**how), model_section(**FUTURE | how)
    found = [sum(needed(model, num_ids=1_000, threads=2, max_events=256).values()) for model in (narrow, forgetting)]
    monkeypatch.setattr(memory, "NUMBERS_A_NARROW_LAYER", memory.NUMBERS_A_LAYER)
    full = [sum(needed(model, num_ids=1_000, threads=2, max_events=256).values()) for model in (narrow, forgetting)]
    assert found[0] < 0.7 * full[0]
    assert found[1] == full[1]


def test_attention_that_forgets_keeps_no_score_of_each_pair(monkeypatch: pytest.MonkeyPatch) -> None:
    model = model_section(**FUTURE | {"width": 64, "num_heads": 4})
    assert sum(needed(model, num_ids=1_000, threads=2, max_events=20_000).values()) < 3 * GIB
    monkeypatch.setattr(kernels, "are_there", lambda: False)
    assert sum(needed(model, num_ids=1_000, threads=2, max_events=20_000).values()) > 20 * GIB


def test_small_heads_that_forget_are_torchs_own_which_keeps_them() -> None:
    model = model_section(**FUTURE | {"width": 64, "num_heads": 16})
    assert sum(needed(model, num_ids=1_000, threads=2, max_events=20_000).values()) > 80 * GIB


def test_what_is_free_is_known_and_a_container_may_allow_less(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    free = memory.available_bytes()
    assert free is not None
    assert free > 2**20
    limit, unlimited = tmp_path / "limit", tmp_path / "unlimited"
    limit.write_text("1048576\n")
    unlimited.write_text("max\n")
    monkeypatch.setattr(memory, "CGROUP_LIMITS", (unlimited, tmp_path / "missing", limit))
    assert memory.available_bytes() == 2**20


def needed(model: ModelSection, *, num_ids: int, threads: int, max_events: int = 16) -> dict[str, int]:
    layout = layout_of(max_events)
    large = CategoricalAttribute(name=layout.categorical[0].name, num_ids=num_ids)
    layout = layout.model_copy(update={"categorical": (large, *layout.categorical[1:])})
    with torch.device("meta"):
        network = Network(model, layout, planted_scaling(planted_rows(9), layout_of(16)))
    how = pretrain_section(threads=threads)
    job = Job(manifest_folder=Path(), model=model, pretrain=how, seed=1, root=Path(), fingerprint="")
    return memory.needed_bytes(network, job, layout)
