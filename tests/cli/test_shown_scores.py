"""The evaluation in a terminal of 80 columns."""

import io
import math

import pandas as pd
from rich.console import Console

from caspr_spark.evaluate.significance import TABLE_COLUMNS
from jobs.console import shown_scores


def test_no_number_is_cut_in_80_columns() -> None:
    unknown = [math.nan] * 4
    ranked = [0.1234, 0.01, -0.1234, 0.0234, 0.001, False, 0.01, 1.0, math.nan, math.nan]
    amount = [1263.36, 6.7, 105.55, 13.84, 0.165, True, 3.9, 0.05, math.nan, math.nan]
    rows = [
        ["categories", "map_new", "embedding", "best", *ranked],
        ["categories", "success_at_5_new", "embedding", "best", *ranked],
        ["value", "rmse", "embedding", "best", *amount],
        ["value", "rmse", "embedding", "ridge", *amount],
        ["value", "rmse", "rfm", "best", 1257.8, 7.6, *unknown[:3], True, *unknown],
    ]
    shown = io.StringIO()
    Console(file=shown, width=80).print(shown_scores(pd.DataFrame(rows, columns=TABLE_COLUMNS)))
    lines = [line.split() for line in shown.getvalue().splitlines() if line.strip()]
    assert lines[3:] == [
        ["categories", "MAP,", "new", "embedding", "0.1234", "-0.1234", "0.0234", "0.001", "100%"],
        ["value", "RMSE", "embedding", "1263.36", "+105.55", "13.84", "0.165", "5%"],
        ["value", "RMSE", "rfm", "1257.80"],
    ]
