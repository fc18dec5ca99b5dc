"""The page: sentences, what is said where there is nothing, and that every text is escaped."""

from caspr_spark.explore.page import Contrast, Lookalike, Lookalikes, Page, Segment, ValueContrast, exploration_html
from caspr_spark.explore.probe import Probed, Score
from caspr_spark.monitor.report import Shown

SCRIPT = "<script>alert('x')</script>"
ESCAPED = "&lt;script&gt;alert(&#39;x&#39;)&lt;/script&gt;"
EMPTY = Page(
    facts={"data set": "shop"},
    notes=[],
    picture=Shown(missing="No picture."),
    segments=[],
    segments_note="No segments: too few.",
    lookalikes=None,
    probes={},
    features=["vector"],
)


def test_every_text_is_escaped() -> None:
    score = Score(SCRIPT, 0.5, {"vector": (0.7, 0.01), SCRIPT: (0.6, 0.01)})
    nobody = Lookalike(SCRIPT, 0.9, [float("nan")])
    page = Page(
        facts={"data set": SCRIPT, SCRIPT: SCRIPT},
        notes=[SCRIPT],
        picture=Shown(missing=SCRIPT),
        segments=[Segment(1, 5, 1.0, [Contrast(SCRIPT, 1, 2, -0.5)], {SCRIPT: [ValueContrast(SCRIPT, 0.5, 0.2)]})],
        segments_note=SCRIPT,
        lookalikes=Lookalikes(1, [SCRIPT], [SCRIPT], [nobody], [nobody]),
        probes={SCRIPT: (Probed(20, SCRIPT, (score,)), True), f"{SCRIPT}2": (Probed(0, SCRIPT), False)},
        features=["vector", SCRIPT],
    )
    html = exploration_html(page)
    assert "<script" not in html
    assert html.count(ESCAPED) == 22
    assert "can be read" in html


def test_what_is_missing_is_said_and_nothing_comes_from_outside() -> None:
    html = exploration_html(EMPTY)
    for text in ("No picture.", "No segments: too few.", "No list of customers", "No profile attribute is declared."):
        assert text in html
    assert "http" not in html
    assert "src=" not in html


def test_a_segment_is_told_by_its_largest_differences() -> None:
    contrasts = [Contrast("spend", 412.3, 160.2, 1.4), Contrast("visits", 0.5, 4.25, -0.6), Contrast("gap", 1, 1, 0.1)]
    segment = Segment(1, 5, 0.5, contrasts, {})
    assert (
        segment.sentence == "Above everybody: spend 412 (everybody 160). Below everybody: visits 0.50 (everybody 4.25)."
    )
    alike = Segment(2, 5, 0.5, contrasts[2:], {})
    assert alike.sentence == "In what was counted its members are much like everybody."
