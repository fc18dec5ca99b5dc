"""The sections `sources` and `profiles`: raw tables, and what is read of them."""

from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from caspr_spark.config.fields import Aggregate, Format, Name, OnFail, Positive, Section, Share, Sql, known_zone


class InputTable(Section):
    """Where raw rows come from."""

    format: Format
    """csv, json, parquet, delta, table (a catalog table) or jdbc."""
    path: str | None = None
    """File, folder or glob; `package://NAME/...` is a file inside an installed Python package; the table's name for
    `table`; not used for jdbc. `${NAME}` is replaced by an environment variable."""
    options: dict[str, str] = {}
    """Options for Spark's reader (separator, jdbc url, dbtable, user, ...). `${NAME}` is replaced as in `path`."""

    @model_validator(mode="after")
    def _has_a_place(self) -> "InputTable":
        if self.format == "jdbc":
            if missing := {"url", "dbtable"} - self.options.keys():
                raise ValueError(f"format jdbc needs the options {sorted(missing)}")
        elif not self.path:
            raise ValueError(f"format {self.format} needs a path")
        return self


class Time(Section):
    """How an activity's time is written."""

    column: str
    """Raw or looked-up column."""
    unit: Literal["timestamp", "s", "ms", "us", "ns"] = "timestamp"
    """timestamp (a timestamp or date column, or text), or an epoch number: seconds, milli-, micro-, nanoseconds."""
    zone: str | None = None
    """Time zone of times that are written without one (e.g. Europe/Berlin). Without it, such rows are rejected."""
    format: str | None = None
    """Spark datetime pattern of text; ISO 8601 where absent."""

    @field_validator("zone")
    @classmethod
    def _zone_is_known(cls, zone: str | None) -> str | None:
        return zone if zone is None else known_zone(zone)


class Attribute(Section):
    """One attribute of an activity or profile. Sources that use the same name mean the same thing by it."""

    kind: Literal["categorical", "numerical", "set"]
    """categorical (any value, as text), numerical, or set (several values at once)."""
    column: str | None = None
    """Raw or looked-up column; the attribute's own name where neither this nor `expression` is given. With
    aggregate count and neither of them, lines are counted."""
    expression: Sql | None = None
    """Spark SQL over raw and looked-up columns, instead of `column`."""
    aggregate: Aggregate | None = None
    """With `group`: how lines become one value. set: distinct; categorical: most_frequent, min, max."""
    max_values: Positive | None = None
    """set only: values kept per activity (the most frequent first); the number cut is counted."""

    @model_validator(mode="after")
    def _is_consistent(self) -> "Attribute":
        if self.column and self.expression:
            raise ValueError("give either 'column' or 'expression', not both")
        if (self.kind == "set") != (self.max_values is not None):
            raise ValueError("'max_values' is needed for kind set, and only there")
        allowed = {
            "categorical": {"most_frequent", "min", "max"},
            "numerical": {"sum", "count", "min", "max", "mean"},
            "set": {"distinct"},
        }[self.kind]
        if self.aggregate and self.aggregate not in allowed:
            raise ValueError(f"kind {self.kind} can be aggregated by {', '.join(sorted(allowed))}")
        return self


class Lookup(InputTable):
    """Columns taken from another table, joined by equality; each key stands there once, if at all."""

    on: dict[str, str]
    """Raw column -> column of the lookup table."""
    columns: dict[str, str]
    """New column name -> column of the lookup table."""


class Check(Section):
    """A rule that each raw row must meet. Rows that break it are rejected with the check's name as the reason."""

    rule: Sql
    """Spark SQL predicate over customer_id, event_time, the attributes and the raw columns; null counts as met."""
    max_failed_share: Share
    """Share of a source's rows that may break it."""
    on_fail: OnFail
    """stop (exit code 3, nothing written) or warn, when more rows than that break it."""


class Group(Section):
    """Lines of one activity (baskets, orders): rows with the same entity and the same values in `by`."""

    by: Annotated[list[str], Field(min_length=1)]
    """Columns that identify the activity. Its time is the earliest of its lines."""


class Sessions(Section):
    """Assignment of a source's events to sessions."""

    idle_minutes: Positive
    """A gap longer than this starts a new session."""
    starts_when: Sql | None = None
    """Spark SQL predicate over event columns: such an event starts a session (login)."""
    ends_when: Sql | None = None
    """Such an event is the last of its session (logout)."""


class Source(InputTable):
    """A raw table whose rows, or groups of rows, are activities of a customer."""

    entity: str
    """Column that names the customer."""
    time: Time
    key: list[str] = []
    """Columns that identify a raw row; rows with the same key are duplicates. Empty: the whole row."""
    filter: Sql | None = None
    """Spark SQL predicate over raw columns: only these rows belong to the source."""
    lookups: dict[Name, Lookup] = {}
    group: Group | None = None
    attributes: dict[Name, Attribute]
    checks: dict[Name, Check] = {}
    """Further checks, for this source only."""
    sessions: Sessions | None = None

    @model_validator(mode="after")
    def _groups_have_aggregates(self) -> "Source":
        without = [name for name, attribute in self.attributes.items() if attribute.aggregate is None]
        if self.group and without:
            raise ValueError(f"'group' needs an 'aggregate' for {', '.join(without)}")
        if not self.group and len(without) != len(self.attributes):
            raise ValueError("'aggregate' needs a 'group'")
        return self


class Profile(InputTable):
    """A table of what is known of customers: accounts, demographics."""

    entity: str
    valid_from: Time | None = None
    """From when a row holds. Without it a row always held: make sure that it does not know the future."""
    filter: Sql | None = None
    attributes: dict[Name, Attribute]

    @model_validator(mode="after")
    def _has_plain_attributes(self) -> "Profile":
        for name, attribute in self.attributes.items():
            if attribute.kind == "set" or attribute.aggregate:
                raise ValueError(f"'{name}': a profile has categorical and numerical attributes without aggregate")
        return self
