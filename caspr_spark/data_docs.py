"""Data Docs: what the gates found, as Great Expectations renders it, in pages that need nothing from the network.

A page names checks, counts and limits, and no row. Great Expectations' own page frame is not used: it loads styles,
scripts and pictures from the internet.
"""

from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment

from caspr_spark.gate import Judged

FOLDER = "data_docs"


def write_page(root: str, name: str, *, title: str, judged: Sequence[Judged], keep: int) -> Path:
    """Write `<root>/data_docs/<name>.html`, and remove all but the newest `keep` pages; returns the page's path."""
    page = Path(root) / FOLDER / f"{name}.html"
    page.parent.mkdir(parents=True, exist_ok=True)
    part = page.with_suffix(".part")
    part.write_text(_html(title, [one for one in judged if one.outcome is not None]), encoding="utf-8")
    part.replace(page)
    newest_first = sorted(page.parent.glob("*.html"), key=lambda path: (path.stat().st_mtime_ns, path.name))[::-1]
    for old in newest_first[keep:]:
        old.unlink()
    return page


def _html(title: str, judged: Sequence[Judged]) -> str:
    template = Environment(autoescape=True).from_string(
        (files("caspr_spark") / "data_docs.html.j2").read_text(encoding="utf-8")
    )
    return template.render(
        title=title,
        suites=[{"name": one.outcome.suite_name, "sections": _sections(one.outcome)} for one in judged],
        verdicts=[verdict for one in judged for verdict in one.verdicts],
    )


def _sections(outcome: Any) -> list[str]:
    """The HTML of each section but the first, which is an overview with links to pages that are not made."""
    from great_expectations.render.renderer import ValidationResultsPageRenderer
    from great_expectations.render.view import DefaultJinjaSectionView

    sections = ValidationResultsPageRenderer().render(outcome).sections[1:]
    view: Any = DefaultJinjaSectionView()
    return [
        view.render({"section": section.to_json_dict(), "section_loop": {"index": number}})
        for number, section in enumerate(sections, start=1)
    ]
