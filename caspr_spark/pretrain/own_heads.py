"""Whether a model's own heads can be believed: they need no labels, so they are tried before any vector is published.

At the last time from which a horizon can be looked ahead, the validation customers' histories are cut off and encoded
as in use, and the heads' guesses are held against what came. A training that saw what is not there in use shows here:
its heads rank worse than chance, or promise too much or too little.
"""

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict
from sklearn.metrics import roc_auc_score

from caspr_spark.config import HeadsSection
from caspr_spark.manifest import SequenceManifest, read_manifest
from caspr_spark.model.batch import batch_of
from caspr_spark.model.checkpoint import load_checkpoint
from caspr_spark.model.features import MICROSECONDS_A_DAY
from caspr_spark.model.future import HORIZONS
from caspr_spark.model.network import Network
from caspr_spark.model.scoring import network_of
from caspr_spark.model.values import Sources
from caspr_spark.pretrain.reader import Rows, SequenceReader
from schemas.vocabulary import FIRST_VALUE_ID

BATCH_SIZE = 64
NUM_ERRORS = 3.0
"""Standard errors that a failure must be clear by."""
Floats = NDArray[np.float64]


class HeadScore(BaseModel):
    """How the head "any activity" did for one source and horizon."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    source_id: int
    """Id of the source in the vocabulary."""
    horizon_days: float
    customers: int
    """Validation customers with an event before the cut."""
    happened: int
    """Those with an activity of the source within the horizon."""
    predicted: float
    """How many were to be expected: the sum of the probabilities."""
    predicted_error: float
    """Standard error of that number, if the probabilities are right."""
    auroc: float | None
    """None where all customers had the same answer."""

    @property
    def auroc_error(self) -> float:
        """Standard error of the AUROC of a head that knows nothing."""
        others = self.customers - self.happened
        return float(np.sqrt((self.customers + 1) / (12 * max(1, self.happened * others))))

    @property
    def odds_ratio(self) -> float:
        """Expected over observed odds, or the inverse, whichever is larger; half a customer is added to each."""
        expected = (self.predicted + 0.5) / (self.customers - self.predicted + 0.5)
        observed = (self.happened + 0.5) / (self.customers - self.happened + 0.5)
        return max(expected / observed, observed / expected)


def own_head_scores(folder: Path, checkpoint: Path) -> tuple[HeadScore, ...]:
    """Scores by horizon and source of the model in `checkpoint`, on the validation customers in `folder`.

    Empty where the model has no such heads, or where no validation customer has an event early enough.
    """
    manifest, network = read_manifest(folder), network_of(load_checkpoint(checkpoint)).eval()
    if network.future is None:
        return ()
    days_H = [share * network.future.longest_days.item() for share in HORIZONS]
    guessed: list[list[Floats]] = [[] for _ in days_H]
    happened: list[list[NDArray[np.bool_]]] = [[] for _ in days_H]
    reader = SequenceReader(folder, manifest, "validation", rank=0, size=1)
    for rows in reader.batches(BATCH_SIZE, shuffle_seed=None):
        for horizon, days in enumerate(days_H):
            found = _guesses(rows, manifest, network, horizon=horizon, horizon_us=round(days * MICROSECONDS_A_DAY))
            guessed[horizon].append(found[0])
            happened[horizon].append(found[1])
    scores: list[HeadScore] = []
    for days, of_guessed, of_happened in zip(days_H, guessed, happened, strict=True):
        if sum(map(len, of_guessed)):
            guessed_BS, happened_BS = np.concatenate(of_guessed), np.concatenate(of_happened)
            scores += [
                _score(guessed_BS[:, source], happened_BS[:, source], source_id=source, horizon_days=round(days, 3))
                for source in range(guessed_BS.shape[1])
                if source >= FIRST_VALUE_ID or guessed_BS.shape[1] == 1
            ]
    return tuple(scores)


def failures(scores: tuple[HeadScore, ...], section: HeadsSection, source_names: dict[int, str]) -> list[str]:
    """What is clearly wrong, each as a sentence."""
    found = []
    for score in scores:
        if min(score.happened, score.customers - score.happened) < section.min_customers:
            continue
        name = source_names.get(score.source_id, f"source {score.source_id}")
        of = f"{name} within {score.horizon_days:g} days, {score.customers} held-out customers"
        if score.auroc is not None and score.auroc < section.least_auroc - NUM_ERRORS * score.auroc_error:
            found.append(f"{of}: the model's own guess ranks them with an AUROC of {score.auroc:.3f} (chance is 0.5)")
        is_clear = abs(score.predicted - score.happened) > NUM_ERRORS * score.predicted_error
        if is_clear and score.odds_ratio > section.largest_odds_ratio:
            found.append(f"{of}: the model expects {score.predicted:.0f}, {score.happened} came")
    return found


def _guesses(
    rows: Rows, manifest: SequenceManifest, network: Network, *, horizon: int, horizon_us: int
) -> tuple[Floats, NDArray[np.bool_]]:
    """(probabilities, what came) of the customers with an event before the cut, both [B, S]; B may be 0."""
    assert network.future is not None
    end_us = round(manifest.as_of.timestamp() * 1_000_000)
    whole = batch_of(rows, manifest.layout, end_us)
    is_before_BT = (whole.event_times_BT < end_us - horizon_us) & whole.is_real_BT
    num_before_B = is_before_BT.sum(dim=1).numpy()
    is_there_B = num_before_B > 0
    came_BTS = Sources(manifest.layout).one_hot(whole) * ~is_before_BT[:, :, None]
    came_BS = (came_BTS.sum(dim=1) > 0).numpy()[is_there_B]
    if not is_there_B.any():
        return np.empty(came_BS.shape), came_BS
    cut_rows = {name: values[is_there_B] for name, values in rows.items()}
    cut_rows["num_events"] = num_before_B[is_there_B].astype(np.int32)
    cut = batch_of(cut_rows, manifest.layout, end_us - horizon_us)
    with torch.inference_mode():
        embedding_B1E = network.encoder(cut).embedding_BE[:, None]
        log_odds_BS = network.future(embedding_B1E)[0].any_BKSH[:, 0, :, horizon]
        return torch.sigmoid(log_odds_BS).double().numpy(), came_BS


def _score(guessed_B: Floats, happened_B: NDArray[np.bool_], *, source_id: int, horizon_days: float) -> HeadScore:
    is_mixed = 0 < happened_B.sum() < len(happened_B)
    return HeadScore(
        source_id=source_id,
        horizon_days=horizon_days,
        customers=len(happened_B),
        happened=int(happened_B.sum()),
        predicted=float(guessed_B.sum()),
        predicted_error=float(np.sqrt((guessed_B * (1 - guessed_B)).sum())),
        auroc=float(roc_auc_score(happened_B, guessed_B)) if is_mixed else None,
    )
