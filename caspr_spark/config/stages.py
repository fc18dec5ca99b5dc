"""The sections of all other stages and commands."""

from typing import Annotated, Any, Literal

from pydantic import AwareDatetime, Field, field_validator, model_validator

from caspr_spark.config.fields import Name, OnFail, PlainPath, Positive, Runtime, Section, Share, known_zone
from caspr_spark.config.inputs import Check


class Expectation(Section):
    """A Great Expectations expectation: on the `events` table, or on the numbers of a run's vectors."""

    expectation: str
    """Class name in great_expectations.expectations, e.g. ExpectTableRowCountToBeBetween."""
    arguments: dict[str, str | int | float | bool | list[str]] = {}
    on_fail: OnFail


class VolumeLimits(Section):
    """How many rows of a raw table may arrive, in medians of the last runs; null: any number."""

    min_ratio: Annotated[float, Field(ge=0)] | None
    max_ratio: Annotated[float, Field(gt=0)] | None
    on_fail: OnFail


class VolumeSection(Section):
    """Rows of each raw table that arrive, against what the last runs of the same kind read. Refreshes of intervals of
    the same length are one kind, runs that read all there is another."""

    num_runs: Positive
    """The last runs that a run is judged by."""
    min_runs: Positive
    """With fewer there is no verdict; nor where their median is 0."""
    limits: VolumeLimits
    by_table: dict[Name, VolumeLimits]
    """Limits of a source or profile of its own, in place of `limits`."""

    def of(self, table: str) -> VolumeLimits:
        return self.by_table.get(table, self.limits)


class HoursLimit(Section):
    """How far the newest event of a source may be from as_of."""

    max_hours: Annotated[float, Field(gt=0)] | None
    """null: any number."""
    on_fail: OnFail


class HoursSection(Section):
    """How far each source's newest event may be from as_of."""

    limit: HoursLimit
    by_source: dict[Name, HoursLimit]
    """Limits of a source of its own, in place of `limit`."""

    def of(self, source: str) -> HoursLimit:
        return self.by_source.get(source, self.limit)


class EventsSection(Section):
    """Stage events: what every raw row and the events as a whole must meet."""

    checks: dict[Name, Check]
    """For the rows of every source, in this order; a row's reason is the first that it breaks."""
    gate: dict[Name, Expectation]
    """For the finished events, before they are published."""
    volume: VolumeSection
    freshness: HoursSection
    """From the newest event before as_of to as_of."""
    ahead: HoursSection
    """From as_of to the newest event after it, of the rows that a refresh finds new."""
    on_new_column: OnFail
    """A column that is not declared and that earlier files, or others, do not have. warn: it is named and ignored."""
    on_unreadable_file: OnFail
    """A file that cannot be read at all. warn: it is named and becomes a row of `rejected`; the others are used."""


class SequencesSection(Section):
    """Stage sequences: what the model sees of a customer."""

    max_events: Positive
    """Newest events of a customer that are kept."""
    min_count: Positive
    """A value gets an id of its own after this many occurrences in the training data."""
    time_parts: list[Literal["hour", "weekday", "day_of_month", "month"]]
    """Calendar parts of the event time that enter as categorical attributes."""
    time_zone: str
    """Zone in which the calendar parts are read."""

    @field_validator("time_zone")
    @classmethod
    def _zone_is_known(cls, zone: str) -> str:
        return known_zone(zone)

    validation_share: Share
    """Share of customers held out of training for the validation loss."""
    customers_per_row_group: Positive
    """Rows of a Parquet row group. 2,500 to 10,000 is fast; there must be a row group for every training worker."""


class EmbedSection(Section):
    """Stage embed: scoring on the executors."""

    batch_size: Positive
    """Customers scored at once."""
    threads: Positive
    """CPU threads a Spark task uses for scoring; as many as spark.task.cpus."""
    runtime: Runtime
    """What computes the vectors; the same up to rounding. onnx: ONNX Runtime, of an export made once a model."""
    max_failed_share: Share
    """Share of a run's customers whose sequences may be such that the model cannot encode them. They keep the vector
    that they have, and stand in `unscored` with the reason; more of them stop the run."""


class PublishSection(Section):
    """Stage publish: what a run's vectors must be, and who is told of a published run."""

    gate: dict[Name, Expectation]
    """On the numbers of the run's vectors, one row; see caspr_spark/publish/gates.py."""

    after_command: list[str]
    """Program and arguments that get a JSON line on standard input after a run was published; empty: none."""
    after_file: str | None
    """File that the line is appended to; null: none."""


class RefreshSection(Section):
    """Refreshing: whose vector is made again, and how long to wait for another run."""

    max_age_days: Positive | None
    """A vector older than this is made again though nothing about the customer changed; null: never for its age."""
    wait_seconds: Annotated[int, Field(ge=0)]
    """How long to wait for another run on the same root before giving up with exit code 75."""


class MaintainSection(Section):
    """Maintenance: what is kept."""

    retention_hours: Annotated[int, Field(ge=168)]
    """Old versions of the tables, and what changed between them, are kept for so long: longer than any reader reads and
    than two refreshes are apart. Not less than the week that Delta allows."""
    keep_sequences: Positive
    """Newest sequence folders that are kept."""
    keep_models: Positive
    """Newest checkpoints that are kept; the champion, the challenger and the champion before always are."""
    keep_data_docs: Positive
    """Newest pages of Data Docs that are kept; a gate that writes one removes the oldest."""


class MonitorSection(Section):
    """Stage monitor: when a run is called suspicious."""

    min_customers: Positive
    """Fewer customers than this in a run, or behind a single number: no verdict on it."""
    baseline_runs: Annotated[int, Field(ge=8)]
    """Runs of a kind that a run is judged by: the last ones, and the first ones of the model. At least a month of them
    knows a pay-day."""
    baseline_since: AwareDatetime | None
    """Runs before this time are no baseline; set it after a change that is meant. Null: all runs of the model."""
    false_alarm_rate: Annotated[float, Field(gt=0, lt=1)]
    """Chance of an alert in a run in which nothing is wrong."""
    min_effect: Annotated[float, Field(ge=0)]
    """Smallest shift of distances, vectors or numbers that is worth an alert, in standard deviations of customers."""
    min_share_effect: Annotated[float, Field(ge=0)]
    """Smallest change of a share that is worth an alert (Cohen's h): 0.2 is 0 to 1 %, 5 to 11 %, or 50 to 60 %."""
    max_median_distance: Annotated[float, Field(ge=0, le=2)]
    """Until a baseline of 8 runs is there: median cosine distance between a customer's newer and older vector above
    which the run raises a drift alert."""
    alert_command: list[str]
    """Program and arguments that get each alert as a JSON line on standard input; empty: none."""
    alert_file: PlainPath | None
    """File that each alert is appended to as a JSON line; null: none."""
    on_drift: OnFail
    """stop: exit code 4 after publishing; warn: say it and exit 0."""


class Task(Section):
    """A question that the embedding is tested on."""

    kind: Literal["churn", "value", "event", "next_values", "first_value", "attribute"]
    """churn: no activity of `source` within the horizon; value: the sum of its `money` within the horizon; event: an
    activity of the source `event` within the horizon; next_values: the values of its `attribute` within the horizon;
    first_value: those of the first such activity; attribute: what profiles say of the customer at the cut, asked of
    vectors that are made without any profile."""
    source: Name
    """Its activities are those that the RFM baseline is made of, and its newest one tells how far labels are known."""
    event: Name | None = None
    """Source that a task of kind event asks for; of no other kind."""
    after: Name | None = None
    """Source whose activities choose the population; none: `source`. Not of next_values, first_value and attribute."""
    attribute: Name | None = None
    """next_values, first_value: categorical or set attribute of `source` whose values are ranked; attribute: profile
    attribute that is asked for; event: attribute of `event` that `values` are of; of no other kind."""
    values: Annotated[list[str], Field(min_length=1)] | None = None
    """Kind attribute, of a categorical one: the answer is yes for customers who have one of these values. A numerical
    one has none: the number itself is guessed. Kind event: only activities with one of these values count."""
    ignored: list[str] = []
    """next_values, first_value: values that are not ranked, for they say nothing, such as the page every visit begins
    with. An activity that has no other is passed over."""
    active_days: Positive
    """Population: customers with an activity in this many days before the cut."""
    horizon_days: Positive | None = None
    """Labels are of so many days that begin at the cut. Not of attribute, which is known at the cut."""
    money: Name
    """Numerical attribute of `source`: what value sums up; for the monetary features of the RFM baseline."""

    @property
    def ranks(self) -> bool:
        """Whether the answer is a ranking of values."""
        return self.kind in ("next_values", "first_value")

    @model_validator(mode="after")
    def _names_what_is_asked_for(self) -> "Task":
        if (self.kind == "event") != (self.event is not None):
            raise ValueError("kind event needs `event`, the source that is asked for; no other kind has it")
        has_attribute = self.attribute is not None
        if has_attribute != (self.ranks or self.kind == "attribute") and self.kind != "event":
            raise ValueError("kinds next_values, first_value and attribute need `attribute`; churn and value have none")
        if self.kind == "event" and has_attribute != (self.values is not None):
            raise ValueError("kind event has `attribute` and `values` together, or neither")
        if (self.ranks or self.kind == "attribute") and self.after is not None:
            raise ValueError(f"kind {self.kind} asks the customers of `source`; it has no `after`")
        if self.ignored and not self.ranks:
            raise ValueError("`ignored` is of the kinds next_values and first_value alone")
        if (self.kind == "attribute") == (self.horizon_days is not None):
            raise ValueError("`horizon_days` is needed, but for kind attribute: what it asks for is known at the cut")
        if self.kind not in ("attribute", "event") and self.values is not None:
            raise ValueError("`values` are of the kinds attribute and event alone")
        return self


class Recipe(Section):
    """Another encoder that is trained on the same sequences and scored beside the model: the paper's, for instance."""

    model: dict[str, Any] = {}
    """Settings in place of those of the section `model`, merged key by key."""
    pretrain: dict[str, Any] = {}
    """The same, of the section `pretrain`."""
    seeds: list[int] = []
    """In place of `seed`. Several: an encoder each; their vectors are turned onto the first's and averaged."""


class EvaluateSection(Section):
    """Stage evaluate: the embedding against hand-made features."""

    tasks: dict[Name, Task]
    num_splits: Positive
    """Random paired splits of the customers."""
    test_share: Annotated[float, Field(gt=0, lt=1)]
    validation_share: Annotated[float, Field(gt=0, lt=1)]
    """Share of the customers on which the better head and its strength are chosen."""
    label_counts: list[Positive]
    """Numbers of labelled customers of the learning curve, with the linear head; none: no curve."""
    ablations: bool
    """Whether vectors of sequences with something taken out are scored as well, with the linear head."""
    unseen_folds: Annotated[int, Field(ge=0)]
    """So many encoders, each trained without one fold of the customers, are scored on that fold, as arm `unseen`; the
    folds are then the test customers of the splits, by turns. 0: no such arm."""
    recipes: dict[Name, Recipe]
    """Arm -> what is trained and scored beside the model, with the linear head."""


class ReportSection(Section):
    """Stage report: what the HTML page is about."""

    money: Name | None
    """Numerical event attribute that colours the map of customers; none: number of events."""
    describe_by: Name | None
    """Categorical or set-valued event attribute by which nearest neighbours are described."""
    max_points: Positive
    """Customers drawn on the map, a reproducible sample."""
    refresh_days: Positive
    """Days of events that the report of a refresh draws."""


class SparkSection(Section):
    """Spark settings for sessions that we start ourselves; spark-submit's own settings win."""

    settings: dict[str, str]
