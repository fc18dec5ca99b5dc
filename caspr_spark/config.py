"""The configuration: one model per section, each field explained. Values stand in conf/base.yaml and the overlays.

Optional fields of a source (key, filter, lookups, ...) are absent when not written; every setting of the program
itself has its value in conf/base.yaml, not here. `config_file.py` reads, merges and reports mistakes.
"""

import re
from typing import Annotated, Any, Literal
from zoneinfo import available_timezones

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    field_validator,
    model_validator,
)

Name = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]{0,62}$")]
Sql = Annotated[str, StringConstraints(min_length=1)]
Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[int, Field(gt=0)]
OnFail = Literal["stop", "warn"]
Format = Literal["csv", "json", "parquet", "delta", "table", "jdbc"]
Aggregate = Literal["sum", "count", "min", "max", "mean", "distinct", "most_frequent"]


def overlaid(below: Any, above: Any) -> Any:
    """Mappings are merged key by key; of anything else `above` wins."""
    if isinstance(below, dict) and isinstance(above, dict):
        return {
            key: overlaid(below[key], above[key]) if key in below and key in above else above.get(key, below.get(key))
            for key in [*below, *(key for key in above if key not in below)]
        }
    return above


def known_zone(zone: str) -> str:
    """`zone` if it is an IANA zone name such as Europe/Berlin. Raises ValueError."""
    if zone not in available_timezones():
        raise ValueError("expected a time zone such as UTC or Europe/Berlin")
    return zone


def plain_path(path: str) -> str:
    """`path` if it is one of this machine's file system, absolute or relative, links and .. allowed. Raises ValueError.

    Anything else would be taken for the name of a folder in the working directory: `file:`, `~`, `${HOME}`.
    """
    is_other = re.match(r"[A-Za-z][A-Za-z0-9+.-]*:/|~", path) or "${" in path
    if not path.strip() or is_other or not path.isprintable():
        raise ValueError("expected a path such as data or /srv/data, without scheme, ~ or ${...}")
    return path


PlainPath = Annotated[str, AfterValidator(plain_path)]


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


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


class ObjectivesSection(Section):
    """What the model is trained for: the weight of each objective in the loss; 0 leaves it out."""

    masked: Annotated[float, Field(ge=0)]
    """Masked entity recovery, the objective of the CASPR paper."""
    future: Annotated[float, Field(ge=0)]
    """Dense future: at many as-of times of the history, what the customer does next within several horizons."""
    contrastive: Annotated[float, Field(ge=0)] = 0.0
    """CoLES: two slices of one customer's events have vectors more alike than those of different customers. Models of
    before have no weight for it, nor for next_event; so these two have a default."""
    next_event: Annotated[float, Field(ge=0)] = 0.0
    """From the vector as of just after an event, the attributes of the next event and the days until it."""

    @model_validator(mode="after")
    def _has_one(self) -> "ObjectivesSection":
        if not any(weight for _, weight in self):
            raise ValueError("give one of 'future', 'masked', 'contrastive' and 'next_event' a weight")
        return self


class ModelSection(Section):
    """The network: encoder, pooling, and what it is trained for."""

    objectives: ObjectivesSection
    encoder: Literal["caspr", "transformer", "gru", "none"]
    """caspr: the paper's transformer, in which every event sees every other. The others look back only: a transformer
    whose heads forget with time, a GRU, or nothing between the events and the pooling."""
    embedding_size: Positive
    """Numbers in a customer's vector."""
    width: Positive
    """Hidden size of the transformer."""
    num_heads: Positive
    feed_forward: Positive
    """Hidden size of the position-wise layers."""
    encoder_layers: Positive
    decoder_layers: Positive
    """For objective masked."""
    dropout: Share
    event_dropout: Share
    """Of the numbers of an event before the encoder; not for encoder caspr."""
    values_dropout: Share
    """Pooling decayed: of the values that a customer had, before dense layers make numbers of them."""
    pooling: Literal["attention", "mean", "last", "decayed"]
    """How the events' outputs become one vector: learned attention, their mean, the newest event's, or sums of events,
    amounts and values that fade with age (not for encoder caspr)."""
    amounts: list[str] | None
    """Numerical attributes of activities that add up to something: their sums are foretold, and kept in the vector as
    they are. None: all numerical attributes."""
    memory_dropout: Share
    """Share of customers whose decoder sees the customer's vector alone, without the single events, so that the
    vector has to carry what the events say. 0 is the paper's decoder."""

    @model_validator(mode="after")
    def _parts_fit(self) -> "ModelSection":
        if self.width % self.num_heads:
            raise ValueError(f"'width' {self.width} is not a multiple of 'num_heads' {self.num_heads}")
        looking_ahead = [name for name, weight in self.objectives if weight and name != "masked"]
        if self.encoder == "caspr" and looking_ahead:
            raise ValueError(
                f"'objectives.{looking_ahead[0]}' needs an encoder that looks back only; 'caspr' sees later events"
            )
        if self.encoder == "caspr" and self.pooling == "decayed":
            raise ValueError("'pooling' decayed needs an encoder that looks back only, not 'caspr'")
        return self


class HeadsSection(Section):
    """Objective future: what the model's own heads must be on validation customers before it is given a name."""

    min_customers: Positive
    """So many must have had an activity within the horizon, and so many none; otherwise there is no verdict."""
    least_auroc: Share
    """Of the guess whether there will be an activity; 0.5 is chance."""
    largest_odds_ratio: Annotated[float, Field(ge=1)]
    """Between the odds of an activity that the model expects and those that came, either way."""
    on_fail: OnFail
    """stop: exit code 3, the model is kept but becomes neither champion nor challenger."""


class PretrainSection(Section):
    """Stage pretrain: how the objectives are trained."""

    launcher: Literal["single", "horovod", "horovod_spark", "torchrun", "torch_spark"]
    """single: one process; horovod: horovodrun; torchrun: torch.distributed; ..._spark: these inside the Spark job."""
    num_workers: Positive
    """Processes that train together; 1 for launcher single."""
    threads: Positive
    """CPU threads a worker uses."""
    mask_share: Share
    """Objective masked: share of a customer's real events that is masked."""
    as_of_times: Positive
    """Objectives future and next_event: as-of times, or events, drawn a customer and epoch."""
    longest_horizon_days: Annotated[float, Field(gt=0)] | None
    """Objective future: the longest of its horizons, and what pooling decayed takes for it. null: a third of
    the training data's history, at most 91 days."""
    batch_size: Positive
    """Customers a worker takes a step."""
    learning_rate: Annotated[float, Field(gt=0)]
    """The highest, with schedule one_cycle."""
    schedule: Literal["constant", "one_cycle"]
    """one_cycle: the learning rate rises over the first 30 % of all steps of `max_epochs` and falls to nothing."""
    weight_decay: Annotated[float, Field(ge=0)]
    gradient_clip: Annotated[float, Field(gt=0)]
    """Largest norm of the gradient."""
    max_epochs: Positive
    patience: Positive
    """Epochs without a better validation loss after which training stops."""
    timeout_seconds: Positive
    """A worker that waits longer than this for the others ends the job."""
    tensorboard: str | None
    """Folder below which each training writes TensorBoard's events; null: none."""
    own_heads: HeadsSection


class FinetuneSection(Section):
    """The verb finetune: how a head, or head and encoder, are trained on labels. The rest is that of `pretrain`."""

    batch_size: Positive
    """Customers a worker takes a step."""
    learning_rate: Annotated[float, Field(gt=0)]
    """The head's; the highest, with schedule one_cycle."""
    encoder_rate_share: Annotated[float, Field(gt=0, le=1)]
    """The encoder's learning rate, as a share of the head's."""
    schedule: Literal["constant", "one_cycle"]
    weight_decay: Annotated[float, Field(ge=0)]
    max_epochs: Positive
    patience: Positive
    """Epochs without a better validation loss after which training stops."""


class EmbedSection(Section):
    """Stage embed: scoring on the executors."""

    batch_size: Positive
    """Customers scored at once."""
    threads: Positive
    """CPU threads a Spark task uses for scoring; as many as spark.task.cpus."""
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
    """In place of `seed`. Several: an encoder each; their vectors side by side, as `model.embedding_size` principal
    components."""


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


class Config(Section):
    """The whole configuration."""

    dataset: Name
    """Name of the data set, shown in reports."""
    root: PlainPath
    """Folder of all tables that are written; a path that every Spark and training worker can reach."""
    seed: int
    sources: dict[Name, Source]
    profiles: dict[Name, Profile]
    events: EventsSection
    sequences: SequencesSection
    model: ModelSection
    pretrain: PretrainSection
    finetune: FinetuneSection
    embed: EmbedSection
    publish: PublishSection
    refresh: RefreshSection
    maintain: MaintainSection
    monitor: MonitorSection
    evaluate: EvaluateSection
    report: ReportSection
    spark: SparkSection

    def with_recipe(self, recipe: Recipe, *, seed: int) -> "Config":
        """This configuration with the recipe's settings. Raises ValidationError where they do not fit together."""
        changed = {
            "model": ModelSection.model_validate(overlaid(self.model.model_dump(), recipe.model)),
            "pretrain": PretrainSection.model_validate(overlaid(self.pretrain.model_dump(), recipe.pretrain)),
        }
        return self.model_copy(update={**changed, "seed": seed})

    @property
    def activity_tables(self) -> dict[str, Source | Profile]:
        """Source or profile name -> declaration: the raw tables whose rows belong to customers."""
        return {**self.sources, **self.profiles}

    @property
    def event_attributes(self) -> dict[str, Attribute]:
        """Attribute name -> declaration, over all sources, in order of first appearance."""
        merged: dict[str, Attribute] = {}
        for source in self.sources.values():
            for name, attribute in source.attributes.items():
                merged.setdefault(name, attribute)
        return merged

    @property
    def profile_attributes(self) -> dict[str, Attribute]:
        """Attribute name -> declaration, over all profiles."""
        return {name: attribute for profile in self.profiles.values() for name, attribute in profile.attributes.items()}
