"""The page: what it escapes, what it says instead of a picture, and that the same inputs give the same bytes."""

import base64
from datetime import UTC, datetime

import numpy as np
import pandas as pd
import pytest

from caspr_spark.monitor import pictures
from caspr_spark.monitor.report import Account, Neighbour, Page, Shown, made_from, nearest, page_html, places
from caspr_spark.monitor.sketch import NUM_DISTANCE_BINS

SCRIPT = "<script>alert('x')</script>"
ESCAPED = "&lt;script&gt;alert(&#39;x&#39;)&lt;/script&gt;"


def page(**changed: object) -> Page:
    nothing = dict.fromkeys(
        ("events", "lengths", "curve", "map", "drift", "drift_runs"), Shown(missing="No picture: nothing to draw.")
    )
    content = {
        "facts": {"data set": "shop", "run": "r1"},
        "made_from": "0123456789abcdef",
        "events_note": "",
        "max_events": 64,
        "accounts": [],
        "pictures": nothing,
        "drift_text": "first run",
        "drift_quantiles": {},
        "drift_charts": [],
        "drift_segments": [],
        "neighbours": [],
        "money_name": "spend",
        "scores": [],
        "unknown_shares": {},
        "missing": {name: f"No {name}." for name in ("accounts", "neighbours", "scores", "unknown_shares")},
    }
    return Page(**(content | changed))  # type: ignore[arg-type]


def test_f100_every_text_is_escaped() -> None:
    customer = Neighbour(SCRIPT, 1.0, 5.0, 3, 2.0, ((SCRIPT, 2),))
    score = {"task": SCRIPT, "metric": "auroc", "head": "best", "arm": SCRIPT, "mean": 0.5, "standard_error": 0.1}
    score |= {"difference_to_rfm": float("nan"), "difference_standard_error": 0.1, "p_value": 0.5}
    score |= {"bootstrap_better": float("nan")}
    moved = {"what": SCRIPT, "baseline": "fixed", "effect": 1.0, "score": 9.0, "limit": 4.0, "is_alert": True}
    html = page_html(
        page(
            facts={"data set": SCRIPT, SCRIPT: SCRIPT},
            accounts=[Account(SCRIPT, 1, 1, 0, 0, SCRIPT)],
            drift_text=SCRIPT,
            neighbours=[[customer, customer]],
            money_name=SCRIPT,
            scores=[score],
            unknown_shares={SCRIPT: 0.5},
            drift_charts=[moved],
            drift_segments=[{"segment": SCRIPT, "customers": 40.0, "score": 0.5}],
        )
    )
    assert "<script" not in html
    assert html.count(ESCAPED) == 18


def test_page_needs_nothing_from_outside_and_names_its_inputs() -> None:
    html = page_html(page())
    assert "http" not in html
    assert "src=" not in html
    assert made_from(html) == "0123456789abcdef"
    assert made_from("another file") == ""


def test_what_is_missing_is_said() -> None:
    html = page_html(page())
    assert html.count("No picture: nothing to draw.") == 6
    for name in ("accounts", "neighbours", "scores", "unknown_shares"):
        assert f"No {name}." in html


def test_neighbours_are_the_nearest_by_angle() -> None:
    vectors = np.array([[1, 0], [5, 0.1], [0, 1], [1, 1], [0, 0], [-1, 0]], dtype=float)
    assert nearest(vectors, 0, num=3) == [(1, pytest.approx(0.9998, abs=1e-4)), (3, pytest.approx(0.5**0.5)), (2, 0)]


def test_f84_a_zero_vector_has_no_neighbours_and_is_none() -> None:
    vectors = np.array([[1, 0], [0, 0], [1, 1]], dtype=float)
    assert [other for other, _ in nearest(vectors, 0, num=5)] == [2]
    assert nearest(vectors, 1, num=5) == []


def test_map_puts_like_vectors_together_and_is_reproducible() -> None:
    random = np.random.default_rng(1)
    vectors = np.vstack([center + 0.05 * random.normal(size=(40, 8)) for center in 5 * np.eye(8)[:3]])
    points = places(vectors, seed=1)
    assert np.array_equal(points, places(vectors, seed=1))
    centers = points.reshape(3, 40, 2).mean(axis=1)
    spread = np.linalg.norm(points.reshape(3, 40, 2) - centers[:, None], axis=2).mean()
    between = min(np.linalg.norm(centers[i] - centers[j]) for i, j in [(0, 1), (0, 2), (1, 2)])
    assert between > 3 * spread


@pytest.mark.parametrize("num_customers", [3, 4, 49])
def test_few_customers_have_a_map_too(num_customers: int) -> None:
    assert places(np.eye(50)[:num_customers, :5], seed=1).shape == (num_customers, 2)
    assert places(np.ones((num_customers, 1)), seed=1).shape == (num_customers, 2)


def test_pictures_are_the_same_bytes_again_and_stand_odd_tables() -> None:
    as_of = datetime(2017, 10, 2, tzinfo=UTC)
    days = pd.DataFrame(
        {"source": ["a", "b"], "event_date": pd.to_datetime(["2017-09-30", "2017-10-05"]), "num_events": 5}
    )
    assert pictures.events_over_time(days, as_of=as_of) == pictures.events_over_time(days, as_of=as_of)
    one_epoch = pd.DataFrame({"epoch": [1], "training_loss": [0.5], "validation_loss": [None]}, dtype=float)
    one_score = pd.DataFrame({"as_of": [as_of], "name": ["shift"], "ratio": [1.5], "is_alert": [True]})
    same = {"money": np.zeros(3), "money_name": "spend", "recency_days": np.full(3, 4.0)}
    for picture in [
        pictures.training_curve(one_epoch),
        pictures.sequence_lengths(pd.Series([1, 1, 2]), max_events=2),
        pictures.drift_histogram(np.eye(NUM_DISTANCE_BINS)[0], None),
        pictures.drift_histogram(np.ones(NUM_DISTANCE_BINS), np.ones(NUM_DISTANCE_BINS)),
        pictures.drift_scores(one_score),
        pictures.customer_map(np.zeros((3, 2)), **same),
        pictures.roc_curves({"rfm": [0.0, 0.5, 1.0]}, auroc={"rfm": 0.5}),
    ]:
        assert len(base64.b64decode(picture.split(",")[1])) > 1000
