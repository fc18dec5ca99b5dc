"""The HTML page: what goes onto it, and the layout of points and neighbours. One file, nothing loaded from outside."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from typing import Any, NamedTuple

import numpy as np
from jinja2 import DictLoader, Environment, StrictUndefined
from numpy.typing import NDArray
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

_TSNE_FROM = 50
"""Fewer customers than this are laid out by their two principal components."""


class Shown(NamedTuple):
    """A picture (data URI), or the sentence that says why there is none."""

    image: str = ""
    missing: str = ""


class Account(NamedTuple):
    """What became of a source's raw rows; `reasons` as text."""

    source: str
    read: int
    taken: int
    duplicate: int
    rejected: int
    reasons: str


class Neighbour(NamedTuple):
    """A customer as the report describes it; `values` with how often each, most typical first."""

    customer_id: str
    similarity: float
    money: float
    num_events: int
    recency_days: float
    values: tuple[tuple[str, int], ...]


@dataclass(frozen=True)
class Page:
    """Everything on the page, in its order. An empty table is replaced by its sentence in `missing`."""

    facts: Mapping[str, str]
    """Label -> value, for the head of the page."""
    made_from: str
    events_note: str
    """Which days the picture of events shows."""
    max_events: int
    """The longest sequence."""
    accounts: Sequence[Account]
    pictures: Mapping[str, Shown]
    """Of events, lengths, curve, map, drift, drift_runs, and one `roc: <task>` a task."""
    drift_text: str
    drift_quantiles: Mapping[str, float]
    drift_charts: Sequence[Mapping[str, Any]]
    """what, baseline, effect, score, limit, is_alert; alerts first."""
    drift_segments: Sequence[Mapping[str, Any]]
    """segment, customers, score; those that moved most first."""
    neighbours: Sequence[Sequence[Neighbour]]
    """Per chosen customer: itself, then its nearest."""
    money_name: str
    scores: Sequence[Mapping[Any, Any]]
    """Lines of the evaluation's score table, by column name."""
    unknown_shares: Mapping[str, float]
    missing: Mapping[str, str] = field(default_factory=dict)
    models: Sequence[Mapping[str, str]] = ()
    """The models that were scored as of the page's time, the champion first: column -> text."""


def page_html(page: Page) -> str:
    """The page as HTML. Every text is escaped."""
    return rendered("caspr_spark.monitor", "report.html.j2", page=page)


def rendered(package: str, template: str, **values: Any) -> str:
    """A template of a package, with the look of all pages in `page.css`. Every text is escaped."""
    texts = {
        name: (files(place) / name).read_text(encoding="utf-8")
        for place, name in ((package, template), ("caspr_spark.monitor", "page.css"))
    }
    environment = Environment(
        loader=DictLoader(texts), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["number"] = _number
    return environment.get_template(template).render(values)


def made_from(html: str) -> str:
    """The fingerprint of the inputs that a page was made from; empty for another file."""
    _, _, rest = html.partition('<meta name="made-from" content="')
    return rest.partition('"')[0]


def places(vectors: NDArray[np.float64], *, seed: int) -> NDArray[np.float64]:
    """Vectors -> two coordinates each, so that near vectors lie near one another (t-SNE on the cosine)."""
    with threadpool_limits(1), np.errstate(invalid="ignore"):  # equal vectors have no variance to share
        if len(vectors) < _TSNE_FROM:
            num_components = min(2, *vectors.shape)
            flat = PCA(num_components, random_state=seed).fit_transform(vectors)
            return np.pad(flat, ((0, 0), (0, 2 - num_components)))
        unit = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
        reduced = PCA(min(30, *unit.shape), random_state=seed).fit_transform(unit)
        tsne = TSNE(perplexity=min(30, len(vectors) / 4), init="pca", random_state=seed, max_iter=600, n_jobs=1)
        return np.asarray(tsne.fit_transform(reduced), dtype=float)


def nearest(vectors: NDArray[np.float64], position: int, *, num: int) -> list[tuple[int, float]]:
    """Position and cosine similarity of the `num` nearest to the vector at `position`, nearest first.

    Vectors that are zero or not finite are nobody's neighbours.
    """
    norms = np.linalg.norm(vectors, axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        similarity = vectors @ vectors[position] / (norms * norms[position])
    similarity[position] = np.nan
    order = np.argsort(-similarity, kind="stable")[:num]
    return [(int(other), float(similarity[other])) for other in order if np.isfinite(similarity[other])]


def _number(value: float, digits: int = 4) -> str:
    """A number for a table; a dash for NaN."""
    return "–" if not np.isfinite(value) else f"{value:,.{digits}f}"
