"""The configuration: one model per section, each field explained. Values stand in conf/base.yaml and the overlays.

Optional fields of a source (key, filter, lookups, ...) are absent when not written; every setting of the program
itself has its value in conf/base.yaml, not here. `caspr_spark/config_file.py` reads, merges and reports mistakes.
"""

from caspr_spark.config.fields import (
    Name,
    OnFail,
    PlainPath,
    Runtime,
    Section,
    overlaid,
    plain_path,
)
from caspr_spark.config.inputs import Attribute, Check, Group, InputTable, Lookup, Profile, Sessions, Source, Time
from caspr_spark.config.stages import (
    EmbedSection,
    EvaluateSection,
    EventsSection,
    Expectation,
    HoursLimit,
    HoursSection,
    MaintainSection,
    MonitorSection,
    PublishSection,
    Recipe,
    RefreshSection,
    ReportSection,
    SequencesSection,
    SparkSection,
    Task,
    VolumeLimits,
    VolumeSection,
)
from caspr_spark.config.training import FinetuneSection, HeadsSection, ModelSection, PretrainSection

__all__ = [
    "Attribute",
    "Check",
    "Config",
    "EvaluateSection",
    "Expectation",
    "FinetuneSection",
    "Group",
    "HeadsSection",
    "HoursLimit",
    "HoursSection",
    "InputTable",
    "Lookup",
    "ModelSection",
    "Name",
    "OnFail",
    "PretrainSection",
    "Profile",
    "Recipe",
    "Runtime",
    "Sessions",
    "Source",
    "Task",
    "Time",
    "VolumeLimits",
    "VolumeSection",
    "overlaid",
    "plain_path",
]


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
