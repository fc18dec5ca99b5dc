"""A page about the vectors of one run, for people: map, segments, look-alikes, and what of the profiles can be read."""

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from caspr_spark.config import Config
from caspr_spark.errors import CasprError, ConfigError
from caspr_spark.explore.activity import activity_measures, customer_activity
from caspr_spark.explore.page import Page, exploration_html
from caspr_spark.explore.segments import Segments, segmented
from caspr_spark.monitor import pictures, samples
from caspr_spark.monitor.report import Shown, places
from caspr_spark.registry import replace_text
from caspr_spark.tables import read_table, table_exists
from pipelines.contracts import event_contract
from pipelines.explore_sections import described_segments, found_lookalikes, profile_probes
from pipelines.monitor_embeddings import published_run
from pipelines.summary import Summary
from schemas.embeddings import CUSTOMER_EMBEDDING_HISTORY
from schemas.runs import RUNS

_MOST_CUSTOMERS = 20_000
"""Customers among whom segments are found, a reproducible sample; no more vectors reach the driver."""
_NUM_NAMED = 5


def explore_embeddings(
    spark: SparkSession,
    config: Config,
    as_of: datetime,
    *,
    model_version: str,
    num_segments: int,
    customers: Sequence[str] | None,
    out: Path,
) -> Summary:
    """Write the page of the model's published run to `out`; the same inputs give the same page.

    `customers`: whose look-alikes are shown; None for none.

    Raises:
        CasprError: no run was published for this as_of, or it has no vectors.
        ConfigError: `out` cannot be written.
    """
    run_id = published_run(spark, config.root, as_of, model_version)
    run = read_table(spark, CUSTOMER_EMBEDDING_HISTORY, config.root).where(F.col("run_id") == run_id)
    num_published = run.count()
    sample = samples.sampled_vectors(run, size=_MOST_CUSTOMERS).toPandas()  # any first part of it is a sample too
    is_finite = np.array([np.isfinite(vector).all() for vector in sample["embedding"]], dtype=bool)
    if not is_finite.any():
        raise CasprError(f"run {run_id} as of {as_of.isoformat()} has no vectors; explore another as_of")
    known = sample[is_finite].reset_index(drop=True)
    vectors = np.vstack(known["embedding"].to_list()).astype(float)

    events = read_table(spark, event_contract(config), config.root)
    numerical = [name for name, attribute in config.event_attributes.items() if attribute.kind == "numerical"]
    measures = activity_measures(list(config.sources), numerical)
    activity = customer_activity(events, as_of=as_of, sources=list(config.sources), numerical=numerical)
    segments = segmented(vectors, num_segments=num_segments, seed=config.seed)
    members = [] if segments is None else list(zip(known["customer_id"], segments.labels.tolist(), strict=True))
    figures = activity_measures(list(config.sources), [config.report.money] if config.report.money else [])
    similar = None if customers is None else found_lookalikes(spark, run, activity, customers, measures=figures)
    probes, features = profile_probes(
        spark, config, as_of, known["customer_id"].to_list(), vectors, model_version=model_version
    )
    page = Page(
        facts={
            "data set": config.dataset,
            "as of (UTC, exclusive)": f"{as_of:%Y-%m-%d %H:%M}",
            "customers with a vector": f"{num_published:,}",
            "run": run_id,
            "model": model_version,
        },
        notes=_notes(
            is_refresh=_is_refresh(spark, config.root, run_id),
            num_published=num_published,
            num_used=len(known),
            num_not_finite=int((~is_finite).sum()),
        ),
        picture=_map_picture(vectors, segments, config),
        segments=described_segments(spark, config, as_of, members, activity, measures=measures) if members else [],
        segments_note=_segments_note(segments, num_segments=num_segments, num_customers=len(known)),
        lookalikes=similar,
        probes=probes,
        features=features,
    )
    notes = [*page.notes, *([] if segments else [page.segments_note])]
    if similar is not None and similar.unknown:
        shown = ", ".join([*similar.unknown[:_NUM_NAMED], *(["…"] if len(similar.unknown) > _NUM_NAMED else [])])
        notes.append(
            f"warning: {len(similar.unknown):,} of {len(set(customers or ())):,} listed customers have no vector in "
            f"this run: {shown}"
        )
    changed = _written(out, exploration_html(page))
    return Summary("explore", num_published, 1, tuple(notes), changed=changed)


def exploration_file(root: str, as_of: datetime, model_version: str) -> Path:
    """Where the page lies unless another place is asked for."""
    return Path(root) / "report" / f"explore_{as_of:%Y%m%dT%H%M%SZ}_{model_version}.html"


def _is_refresh(spark: SparkSession, root: str, run_id: str) -> bool:
    if not table_exists(spark, RUNS, root):
        return False
    is_it = (F.col("run_id") == run_id) & (F.col("kind") == "refresh")
    return not read_table(spark, RUNS, root).where(is_it).isEmpty()


def _notes(*, is_refresh: bool, num_published: int, num_used: int, num_not_finite: int) -> list[str]:
    """Which customers the page is about, where that is not simply everybody."""
    notes = []
    if is_refresh:
        notes.append(
            "This run is a refresh: it published the customers that it touched, and “everybody” is those alone. "
            "The as-of time of a full build shows all."
        )
    if num_published > num_used + num_not_finite:
        notes.append(f"Map, segments and profiles are of a sample of {num_used:,} customers.")
    if num_not_finite:
        notes.append(f"{num_not_finite:,} vectors with numbers that are not finite were left out.")
    return notes


def _segments_note(segments: Segments | None, *, num_segments: int, num_customers: int) -> str:
    if segments is None:
        return (
            f"No segments: {num_segments} were asked for, and the {num_customers:,} customers have fewer different "
            "vectors; ask for fewer (--segments)."
        )
    return (
        f"How clear they are: silhouette {segments.silhouette:.2f} (1: groups that lie apart; near 0: cuts through one "
        f"cloud), agreement with a second search {segments.agreement:.2f} (1: the same segments; 0: chance)."
    )


def _map_picture(vectors: NDArray[np.float64], segments: Segments | None, config: Config) -> Shown:
    size = min(len(vectors), config.report.max_points)
    if size < 3:
        return Shown(missing="No picture: fewer than three customers have a vector.")
    labels = np.ones(size, dtype=np.int64) if segments is None else segments.labels[:size]
    return Shown(pictures.segment_map(places(vectors[:size], seed=config.seed), segments=labels))


def _written(place: Path, html: str) -> bool:
    """Put the page in place; False where it already reads so."""
    if place.is_file() and place.read_bytes() == html.encode():
        return False
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        replace_text(place, html)
    except OSError as error:
        raise ConfigError(
            f"{place}: the page cannot be written ({error.strerror}); give another file (--out)"
        ) from None
    return True
