"""`caspr-spark rejected`: raw rows that were not taken, and why."""

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from caspr_spark.config_file import load_config
from jobs.console import console
from jobs.options import ConfigPaths
from jobs.running import session

rejected = typer.Typer(name="rejected", help="Raw rows that were not taken, and why.", no_args_is_help=True)

RejectedSource = Annotated[str | None, typer.Option("--source", help="Only of this source or profile.")]
RejectedReason = Annotated[str | None, typer.Option("--reason", help="Only those with this reason.")]


@rejected.command("ls")
def rejected_ls(config: ConfigPaths, source: RejectedSource = None, reason: RejectedReason = None) -> None:
    """How many raw rows were not taken, by source, reason and file."""
    from pipelines.rejected_rows import rejected_counts

    settings = load_config(config)
    with session(settings, "rejected", writes=False) as spark:
        found = rejected_counts(spark, settings, source=source, reason=reason)
    console.print(f"{found['rows'].sum():,} rejected rows in {settings.root}")
    for row in found.itertuples():  # no table: a terminal would cut names that one has to give
        console.print(escape(f"{row.rows:>12,}  {row.source}  {row.reason}  {row.file}"))


@rejected.command("export")
def rejected_export(
    config: ConfigPaths,
    output: Annotated[Path, typer.Option(help="File to write: .csv, or .jsonl. It names customers.")],
    source: Annotated[str, typer.Option(help="Rows of this source or profile.")],
    reason: RejectedReason = None,
) -> None:
    """The raw rows that were not taken, to be mended and delivered again as a new file."""
    from pipelines.rejected_rows import export_rejected

    settings = load_config(config)
    with session(settings, "rejected", writes=False) as spark:
        exported = export_rejected(spark, settings, output, source=source, reason=reason)
    console.print(f"{exported.num_rows:,} rows written to {escape(str(output))}")
    if exported.num_unparsed:
        console.print(f"{exported.num_unparsed:,} texts that could not be parsed: {escape(str(exported.unparsed))}")
