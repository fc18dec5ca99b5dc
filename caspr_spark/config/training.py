"""The sections `model`, `pretrain` and `finetune`."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from caspr_spark.config.fields import OnFail, PlainPath, Positive, Section, Share


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
    device: Literal["auto", "cpu", "cuda"]
    """auto: a GPU where the worker sees one. Its weights differ from a CPU's by the rounding of `precision`."""
    precision: Literal["auto", "float32", "bf16"]
    """Of the layers of encoder and decoder while they are trained. auto: bf16 on a GPU that can, otherwise float32."""
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
    max_restarts: Annotated[int, Field(ge=0)]
    """Workers that were killed or hang are started again so often; they go on from the last saved state."""
    tensorboard: PlainPath | None
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
