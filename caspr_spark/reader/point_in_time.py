"""Which vector was the newest, in Arrow alone: pyarrow 14 has no as-of join."""

from datetime import timedelta
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from caspr_spark.reader.frames import UTC


def newest_of_each_customer(rows: Any) -> Any:
    """Positions of the rows that have the newest as_of of their customer, by customer."""
    order = pc.sort_indices(rows, sort_keys=[(name, "ascending") for name in ("customer_id", "as_of", "run_id")])
    customers = rows.column("customer_id").combine_chunks().take(order)
    if not len(order):
        return order
    is_last = pa.concat_arrays([pc.not_equal(customers[1:], customers[:-1]), pa.array([True])])
    return order.filter(is_last)


def newest_positions(customers: Any, times: Any, history: Any, max_age: timedelta | None) -> Any:
    """For each entity, the position in `history` of its customer's newest row with as_of <= time; null for none.

    Vectors and entities are laid into one order by customer and time, at an equal time the vectors first; then each
    entity's vector is the last one before it, if that is of the same customer.
    """
    known = customers.drop_null().unique()
    of_vectors = pc.index_in(history.column("customer_id").combine_chunks(), value_set=known)
    of_entities = pc.index_in(customers, value_set=known)
    as_of = history.column("as_of").combine_chunks().cast(UTC)
    num_vectors, num_entities = len(of_vectors), len(of_entities)
    rows = pa.table(
        {
            "customer": pa.concat_arrays([of_vectors, of_entities]),
            "time": pa.concat_arrays([as_of, times]),
            "is_entity": pa.array([0] * num_vectors + [1] * num_entities, pa.int8()),
            "run_id": pa.concat_arrays(
                [history.column("run_id").combine_chunks(), pa.nulls(num_entities, pa.string())]
            ),
            "position": pa.array([*range(num_vectors), *[None] * num_entities], pa.int64()),
        }
    )
    keys = [(name, "ascending") for name in ("customer", "time", "is_entity", "run_id")]
    order = pc.sort_indices(rows, sort_keys=keys)
    nearest = pc.fill_null_forward(rows.column("position").combine_chunks().take(order))
    positions = nearest.take(pc.sort_indices(order))[num_vectors:]

    is_right = pc.and_(pc.equal(of_vectors.take(positions), of_entities), pc.is_valid(times))
    if max_age is not None:
        age = pc.subtract(times, as_of.take(positions))
        is_right = pc.and_(is_right, pc.less_equal(age, pa.scalar(max_age, pa.duration("us"))))
    return pc.if_else(pc.fill_null(is_right, False), positions, pa.scalar(None, pa.int64()))


def rivals_of(history: Any, positions: Any) -> Any:
    """The rows at `positions`, with all others of the same customer and as_of: one of several models is no better."""
    keys = ["customer_id", "as_of"]
    served = history.select(keys).take(positions.drop_null()).group_by(keys).aggregate([])
    return history.select([*keys, "model_version"]).join(served, keys=keys, join_type="left semi")
