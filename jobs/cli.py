"""The `caspr-spark` command. A job in this folder is one of its verbs, for spark-submit."""

import signal
import sys
import traceback
from collections.abc import Callable
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer
from rich.markup import escape

from caspr_spark.config_file import load_config
from caspr_spark.erase.requests import checked_request_id, read_ids
from caspr_spark.errors import CasprError, ConfigError
from caspr_spark.lease import lease
from caspr_spark.simulate.bank.faults import FAULT_DESCRIPTIONS
from jobs import runs_cli, steps_cli
from jobs.console import console, errors, shown_step
from jobs.models_cli import models
from jobs.options import ConfigPaths, parsed_as_of
from jobs.rejected_cli import rejected
from jobs.running import session

app = typer.Typer(
    name="caspr-spark",
    help="Raw customer tables to customer embeddings. Each verb is a step; full-build runs them all.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)

app.add_typer(models)
app.add_typer(rejected)
_VERBS: tuple[Callable[..., None], ...] = (
    steps_cli.build_events,
    steps_cli.build_sequences,
    steps_cli.pretrain_model,
    steps_cli.finetune,
    steps_cli.embed_customers,
    steps_cli.publish_embeddings,
    steps_cli.monitor_embeddings,
    steps_cli.evaluate_embeddings,
    steps_cli.write_report,
    steps_cli.explore,
    runs_cli.full_build,
    runs_cli.retrain,
    runs_cli.refresh,
    runs_cli.backfill,
    runs_cli.maintain,
    runs_cli.plan_refresh,
    runs_cli.runs,
)
"""The others stand below."""
for _verb in _VERBS:
    app.command()(_verb)


class Export(StrEnum):
    """What `export` can write."""

    feast = "feast"
    databricks = "databricks"
    ddl = "ddl"


class Erasure(StrEnum):
    """What `erase` can do beside erasing."""

    verify = "verify"


@app.command()
def erase(
    config: ConfigPaths,
    ids_file: Annotated[
        Path, typer.Option("--ids-file", help="The customers: one customer_id a line, exactly; .jsonl: as JSON.")
    ],
    action: Annotated[Erasure | None, typer.Argument(help="verify: erase nothing, prove that it was done.")] = None,
    verified_id: Annotated[str | None, typer.Argument(metavar="REQUEST_ID", help="The request to verify.")] = None,
    request_id: Annotated[str | None, typer.Option("--request-id", help="The name of a request to erase.")] = None,
) -> None:
    """Customers leave every table and file below the root and do not come back; `erase verify` proves it."""
    from pipelines.erase import erase as step
    from pipelines.erase import verified

    settings, ids = load_config(config), read_ids(ids_file)
    if (verified_id is None) == (request_id is None) or (action is None) != (verified_id is None):
        raise ConfigError("erase: give --request-id ID to erase, or `verify ID` to verify")
    if verified_id is not None:
        name = checked_request_id(verified_id)
        with lease(settings.root, wait_seconds=settings.refresh.wait_seconds):
            console.print(escape(verified(settings.root, ids, name)))
        return
    name = checked_request_id(request_id or "")
    with session(settings, "erase", finishes_erasure=True) as spark:
        shown_step("erase", lambda: step(spark, settings, ids, name, now=datetime.now(UTC)))


@app.command()
def export(
    config: ConfigPaths,
    kind: Annotated[Export, typer.Argument(help="feast, databricks or ddl.")],
    schema: Annotated[str, typer.Option(help="Schema (or catalog.schema) of the SQL statements.")] = "features",
    existing: Annotated[bool, typer.Option("--existing", help="SQL for tables that are there already.")] = False,
) -> None:
    """Definitions of the published tables, for a feature store or a catalogue, on standard output."""
    from caspr_spark.publish.definitions import databricks_sql, delta_ddl, feast_definition

    root = str(Path(load_config(config).root).absolute())
    if kind is Export.feast:
        print(feast_definition(root))
    elif kind is Export.databricks:
        print(databricks_sql(root, schema=schema, existing=existing))
    else:
        print(delta_ddl(root, schema=schema, existing=existing))


@app.command()
def simulate_bank(
    config: ConfigPaths,
    out: Annotated[Path, typer.Option(help="Folder of the raw files; a bank that is there goes on.")],
    customers: Annotated[int, typer.Option(min=1)] = 1000,
    start: Annotated[str, typer.Option(help="Start of the first batch, with a zone.")] = "2024-01-01T00:00:00Z",
    batches: Annotated[int, typer.Option(min=1, help="Batches there are in the end.")] = 30,
    hours: Annotated[int, typer.Option(min=1, help="Hours of a batch.")] = 24,
    seed: Annotated[int, typer.Option()] = 1,
    fault: Annotated[
        list[str] | None,
        typer.Option(
            help=f"NAME[.TABLE][=BATCHES[:STRENGTH]], see docs/simulator.md: {', '.join(FAULT_DESCRIPTIONS)}."
        ),
    ] = None,
) -> None:
    """Raw files of an invented bank, batch by batch, from a seed. All of it is synthetic."""
    from pipelines.simulate_bank import simulate_bank as step

    time = parsed_as_of(start, "--start")
    settings = load_config(config)
    with session(settings, "simulate", writes=False) as spark:
        shown_step(
            "simulate",
            lambda: step(
                spark,
                out,
                num_customers=customers,
                start=time,
                num_batches=batches,
                hours=hours,
                seed=seed,
                faults=fault or [],
            ),
        )


def main(arguments: list[str] | None = None) -> None:
    """Run the command line; a failure that the user can mend is one message, and its kind is the exit code."""
    signal.signal(signal.SIGTERM, _terminate)
    try:
        app(args=arguments, standalone_mode=True)
    except CasprError as error:
        errors.print(f"[red]error:[/red] {escape(str(error))}")
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception:
        errors.print("[red]error:[/red] unexpected; please report it with what follows")
        errors.print(escape(traceback.format_exc()))
        sys.exit(1)


def run_job(verb: str) -> None:
    """What a file of this folder does under spark-submit: one verb, with the job's own arguments."""
    main([verb, *sys.argv[1:]])


def _terminate(_number: int, _frame: FrameType | None) -> None:
    sys.exit(143)


if __name__ == "__main__":
    main()
