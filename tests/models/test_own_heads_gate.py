"""A model whose own heads fail on held-out customers is kept, and gets no name."""

from pathlib import Path

import pytest
from pyspark.sql import SparkSession

import conf
from caspr_spark.aliases import champion_of, read_aliases
from caspr_spark.config import HeadsSection
from caspr_spark.config_file import load_config
from caspr_spark.errors import GateError
from caspr_spark.manifest import sequences_folder, write_manifest
from caspr_spark.pretrain.own_heads import HeadScore
from caspr_spark.registry import kept_models, read_card
from caspr_spark.session import local_frame
from caspr_spark.tables import write_table
from pipelines import pretrain_model as step
from schemas.vocabulary import VOCABULARY
from tests.pretrain.planted import AS_OF, FUTURE, FilePlan, model_section, pretrain_section, write_planted

BAD = HeadScore(source_id=3, horizon_days=28, customers=200, happened=100, predicted=104, predicted_error=6, auroc=0.31)


def test_a_model_whose_heads_fail_gets_no_name_until_a_warning_is_enough(
    spark: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = sequences_folder(tmp_path, AS_OF)
    folder.parent.mkdir()
    manifest = write_planted(folder, [FilePlan("training", (40,)), FilePlan("validation", (10,))])
    write_manifest(manifest.model_copy(update={"lineage": {"events": 500}}), folder)
    columns = "attribute string, value string, id int, num_occurrences bigint"
    write_table(local_frame(spark, [("source", "clicks", 3, 500)], columns), VOCABULARY, str(tmp_path))
    config = load_config([Path(conf.__file__).parent / "clickstream.yaml"]).model_copy(
        update={
            "root": str(tmp_path),
            "model": model_section(**FUTURE),
            "pretrain": pretrain_section(max_epochs=1),
        }
    )
    monkeypatch.setattr(step, "own_head_scores", lambda *_: (BAD,))

    for _ in range(2):  # again: the training is not repeated, the verdict is
        with pytest.raises(
            GateError, match=r"gets no name.*\n  - clicks within 28 days, 200 held-out.*AUROC of 0\.310"
        ):
            step.pretrain_model(spark, config, AS_OF)
    assert read_aliases(tmp_path).champion is None
    (version,) = kept_models(tmp_path)
    card = read_card(tmp_path, version)
    assert card is not None
    assert card.own_heads[0]["auroc"] == 0.31
    assert card.objective == "future"

    warned = HeadsSection(min_customers=20, least_auroc=0.5, largest_odds_ratio=4, on_fail="warn")
    pretrain = config.pretrain.model_copy(update={"own_heads": warned})
    summary = step.pretrain_model(spark, config.model_copy(update={"pretrain": pretrain}), AS_OF)

    assert champion_of(tmp_path) == version
    assert summary.notes[1] == (
        "own guesses for 200 held-out customers, 28 days ahead: clicks AUROC 0.310, expected 104, came 100"
    )
    assert summary.notes[2].startswith("warning: clicks within 28 days")
