"""Time-decayed pooling: a customer's vector as sums over events that fade with their age, at any as-of time.

Every sum is divided by the time that it covers, so that it is a rate: what is learned early in the history holds later.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

from caspr_spark.config import ModelSection
from caspr_spark.manifest import Layout, Scaling
from caspr_spark.model.batch import Batch
from caspr_spark.model.dropout import Dropout
from caspr_spark.model.features import MICROSECONDS_A_DAY, NO_TIME, ProfileVectors, Scale, signed_log
from caspr_spark.model.softplus import softplus
from caspr_spark.model.values import Amounts, Sources, Values

TIME_CONSTANTS = (3 / 91, 7 / 91, 14 / 91, 28 / 91, 56 / 91, 120 / 91)
"""In longest horizons; beyond them one that never fades."""
NEVER_DAYS = 1e9
MOST_FADED = 60.0
"""In time constants: 1e-26 is left. What would be left of an older event takes a processor very long to compute."""
MONTH, TWO_MONTHS, SEASON, EVER = 3, 4, 5, 6
"""Positions in the time constants."""
PLAIN = (SEASON, EVER, MONTH, TWO_MONTHS, 2, 1, 0)
"""Those of an amount's plain rates, the first ones first where a vector has no room for all."""
LARGEST_RATE = 1000.0
"""Of an amount, in the population's mean rates; beyond it a vector does not grow."""
NUM_SUMMED, NUM_GATES, NUM_HIDDEN = 32, 3, 128
FEW_VALUES = 32
"""The counts of an attribute of no more values are neither compressed, before they meet the others, nor dropped."""
LEAST_TENURE = 28 / 91
"""In longest horizons: the time that a plain rate is over, at least. A first purchase of yesterday is no habit yet."""
TENURE_LIMIT = 84 / 91
"""In longest horizons: a longer tenure is not told apart, for the training's as-of times know only shorter ones."""


class DecayedPooling(nn.Module):
    """Events' outputs, their amounts, their values and the profile -> embedding_BKE, one a customer and as-of time.

    The vector is three parts side by side: what dense layers make of all rates; the plain rates of the amounts that
    `model.amounts` names, untouched by training; and what dense layers make of how often each value came. The R time
    constants and the units are data: `fit` sets them.
    """

    longest_days: Tensor
    mean_rate: Tensor
    mean_absolute_N: Tensor
    time_constants: Tensor
    never_days: Tensor

    def __init__(self, section: ModelSection, layout: Layout, scaling: Mapping[str, Scaling]) -> None:
        super().__init__()
        self.sources, self.values = Sources(layout), Values(layout)
        self.profile_vectors = ProfileVectors(layout, scaling)
        self.scale = Scale(layout.numerical, scaling)
        num_numerical, num_constants = len(layout.numerical), len(TIME_CONSTANTS) + 1
        size = section.embedding_size
        self.amounts = Amounts(section, layout)
        mixed, plain, values = _part_sizes(size, self.amounts.size, self.values.size)
        self.num_plain = plain
        self.register_buffer("longest_days", torch.tensor(91.0))
        self.register_buffer("mean_rate", torch.tensor(1.0))
        self.register_buffer("mean_absolute_N", torch.ones(num_numerical))
        self.register_buffer("time_constants", torch.tensor(TIME_CONSTANTS), persistent=False)
        self.register_buffer("never_days", torch.tensor([NEVER_DAYS]), persistent=False)

        self.summed = nn.Linear(section.width, NUM_SUMMED)
        self.gates = nn.Linear(section.width, NUM_GATES)
        num_amounts = num_constants * (1 + NUM_GATES) * num_numerical
        num_rates = num_constants * NUM_SUMMED + num_amounts + (num_constants + 1) * self.sources.size + 3
        num_rates += self.profile_vectors.size
        self.mixed = nn.Sequential(
            nn.LayerNorm(num_rates),
            nn.Linear(num_rates, NUM_HIDDEN),
            nn.GELU(),
            Dropout(section.dropout),
            nn.Linear(NUM_HIDDEN, mixed),
        )
        self.of_values = ValueCounts(self.values.sizes, values, dropout=section.values_dropout) if values else None

    @torch.no_grad()
    def fit(self, *, longest_days: float, mean_rate: float, mean_absolute_N: Tensor) -> None:
        """The longest horizon, the population's events a day, and the numericals' mean size, of the training data."""
        self.longest_days.fill_(longest_days)
        self.mean_rate.fill_(mean_rate)
        self.mean_absolute_N.copy_(mean_absolute_N)

    def forward(self, events_BTD: Tensor, batch: Batch, as_of_BK: Tensor, is_visible_BT: Tensor) -> Tensor:
        """embedding_BKE of the visible events before each as-of time (microseconds); a customer may have none."""
        num_customers, num_times = as_of_BK.shape
        age_BKT, is_seen_BKT = ages(batch, as_of_BK, is_visible_BT)
        constants_R = torch.cat([self.longest_days * self.time_constants, self.never_days])
        constants_ago_BKRT = (age_BKT[:, :, None] / constants_R[:, None]).clamp(max=MOST_FADED)
        faded_BKRT = torch.exp(-constants_ago_BKRT) * is_seen_BKT[:, :, None]
        tenure_BK1 = age_BKT.amax(dim=-1, keepdim=True).clamp(min=1.0)
        covered_BKR = torch.minimum(constants_R, tenure_BK1)
        rates_BJT = (faded_BKRT / (covered_BKR * self.mean_rate)[..., None]).flatten(1, 2)

        def rates(of_events_BTX: Tensor) -> Tensor:
            return torch.bmm(rates_BJT, of_events_BTX).view(num_customers, num_times, -1)

        raw_BTN = self.scale.cut(batch.numerical_BTN) / self.mean_absolute_N
        gates_BTG1 = torch.sigmoid(self.gates(events_BTD))[..., None]
        amounts_BKX = rates(torch.cat([raw_BTN, (gates_BTG1 * raw_BTN[:, :, None]).flatten(2)], dim=-1))
        sources_BTS = self.sources.one_hot(batch)
        since_BKX = self._since(batch, as_of_BK, is_visible_BT, sources_BTS)
        usual_gaps_BK1 = since_BKX[..., :1] * (faded_BKRT.sum(dim=-1) / covered_BKR)[..., TWO_MONTHS, None]
        known_BK1 = tenure_BK1.clamp(max=TENURE_LIMIT * self.longest_days)
        # (1 + x).log(), where x is not tiny as exact as log1p, which takes torch four times as long
        parts = [
            (1 + rates(softplus(self.summed(events_BTD)))).log(),
            signed_log(amounts_BKX),
            rates(sources_BTS).log1p(),
            torch.cat([since_BKX, usual_gaps_BK1, known_BK1], dim=-1).log1p(),
            self.profile_vectors(batch)[:, None].expand(-1, num_times, -1),
        ]
        embedded = [self.mixed(torch.cat(parts, dim=-1))]
        if self.num_plain:
            least_BK1 = tenure_BK1.clamp(min=LEAST_TENURE * self.longest_days)
            embedded.append(self._plain(amounts_BKX, covered_BKR / torch.minimum(constants_R, least_BK1)))
        if self.of_values is not None:
            windows_21 = torch.stack([constants_R[MONTH], self.longest_days])[:, None]
            fading_BKRT = torch.unflatten(rates_BJT, 1, (num_times, -1))[:, :, [MONTH, EVER]]
            counting_BJT = (fading_BKRT * self.mean_rate * windows_21).flatten(1, 2)
            logs_BJV = self.values.log_sums(batch, counting_BJT)
            embedded.append(self.of_values(logs_BJV.view(num_customers, num_times, 2, -1)))
        return torch.cat(embedded, dim=-1)

    def _plain(self, amounts_BKX: Tensor, calmed_BKR: Tensor) -> Tensor:
        """The amounts' own rates, in the raw unit, each times `calmed_BKR`: 1, or less where a tenure is short."""
        rates_BKRX = torch.unflatten(amounts_BKX, -1, (calmed_BKR.shape[-1], -1)) * calmed_BKR[..., None]
        plain_BKRN = rates_BKRX[:, :, PLAIN][..., self.amounts.positions]
        plain_BKX: Tensor = plain_BKRN.flatten(2)[..., : self.num_plain]
        return plain_BKX.clamp(-LARGEST_RATE, LARGEST_RATE)

    def _since(self, batch: Batch, as_of_BK: Tensor, is_visible_BT: Tensor, sources_BTS: Tensor) -> Tensor:
        """Days since the newest visible event before each time: of all events, and of each source. [B, K, 1 + S]."""
        is_of_BTX = torch.cat([is_visible_BT[:, :, None], (sources_BTS > 0) & is_visible_BT[:, :, None]], dim=-1)
        times_BTX = torch.where(is_of_BTX, batch.event_times_BT[:, :, None], NO_TIME)
        is_before_BKT = (batch.event_times_BT[:, None] < as_of_BK[:, :, None]) & batch.is_real_BT[:, None]
        if as_of_BK.shape[1] == 1:
            newest_BKX = times_BTX.masked_fill(~is_before_BKT[:, 0, :, None], NO_TIME).amax(dim=1, keepdim=True)
        else:  # one running maximum for all times
            num_before_BK = is_before_BKT.sum(dim=-1)
            last_BKX = (num_before_BK - 1).clamp(min=0)[:, :, None].expand(-1, -1, times_BTX.shape[2])
            newest_BKX = times_BTX.cummax(dim=1).values.gather(1, last_BKX)
            newest_BKX = newest_BKX.masked_fill((num_before_BK == 0)[:, :, None], NO_TIME)
        is_there_BKX = newest_BKX != NO_TIME
        since_BKX = torch.where(is_there_BKX, as_of_BK[:, :, None] - newest_BKX, 0)
        days_BKX = (since_BKX.double() / MICROSECONDS_A_DAY).float()
        limit = 4 * self.longest_days
        return torch.where(is_there_BKX, days_BKX, limit).clamp(max=limit)


class ValueCounts(nn.Module):
    """How often each value came, within a month and ever -> `size` numbers.

    Each attribute goes through a layer of its own, so that many values of one do not drown the few of another.
    """

    def __init__(self, sizes: list[int], size: int, *, dropout: float) -> None:
        super().__init__()
        self.sizes = sizes
        self.dropouts = nn.ModuleList(Dropout(dropout if num > FEW_VALUES else 0.0) for num in sizes)
        widths = [min(num, FEW_VALUES) for num in sizes]
        self.own = nn.ModuleList(nn.Linear(2 * num, width) for num, width in zip(sizes, widths, strict=True))
        self.together = nn.Linear(sum(widths), size)

    def forward(self, counts_BK2V: Tensor) -> Tensor:
        """[B, K, 2, V] -> [B, K, size]."""
        parts = zip(torch.split(counts_BK2V, self.sizes, dim=-1), self.dropouts, self.own, strict=True)
        hidden = [own(dropout(counts.flatten(2))) for counts, dropout, own in parts]
        together: Tensor = self.together(functional.gelu(torch.cat(hidden, dim=-1)))
        return together


def ages(batch: Batch, as_of_BK: Tensor, is_visible_BT: Tensor) -> tuple[Tensor, Tensor]:
    """(age_BKT in days, 0 where not seen; is_seen_BKT) of the visible events strictly before each as-of time."""
    until_BKT = as_of_BK[:, :, None] - batch.event_times_BT[:, None, :]
    is_seen_BKT = (until_BKT > 0) & is_visible_BT[:, None, :]
    age_BKT = (until_BKT.double() / MICROSECONDS_A_DAY).float()
    return torch.where(is_seen_BKT, age_BKT, 0.0), is_seen_BKT


def _part_sizes(size: int, num_amounts: int, num_values: int) -> tuple[int, int, int]:
    """How many numbers of a vector of `size` are mixed, plain rates (a quarter at most), and of values."""
    amounts = min(len(PLAIN) * num_amounts, size // 4)
    values = size * 3 // 8 if num_values else 0
    return size - amounts - values, amounts, values
