"""The transformer block of encoder and decoder: pre-norm, residual, with masked padding. No statistic of a batch."""

from typing import cast

from torch import Tensor, nn
from torch.nn import functional

from caspr_spark.model import fused_block
from caspr_spark.model.dropout import Dropout
from caspr_spark.model.forgetting import Forgetting
from caspr_spark.model.norm import LayerNorm


class Attention(nn.Module):
    """Multi-head attention, equations 1 to 3 of the paper.

    Keys and values have no bias: the softmax cancels the one, `output.bias` can be the other. Its gradient would be
    rounding alone, which Adam blows up to steps of full size.
    """

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.query = nn.Linear(width, width)
        self.key_value = nn.Linear(width, 2 * width, bias=False)
        self.output = nn.Linear(width, width)

    def forward(
        self,
        events_BTD: Tensor,
        seen_BUD: Tensor,
        mask: Tensor | Forgetting | None,
        *,
        is_causal: bool = False,
    ) -> Tensor:
        """Each of T attends to those of U, with `is_causal` to no later one.

        `mask`, [B or 1, H or 1, T or 1, U]: True where it may. None: to all. With a `Forgetting` events are [L, D], and
        `seen_BUD` is the same.
        """
        query_BTD, key_value_BUX = self.query(events_BTD), self.key_value(seen_BUD)
        if isinstance(mask, Forgetting):
            mixed_BTD = mask.attention(query_BTD, key_value_BUX)
        else:
            query_BHTK = self._heads(query_BTD)
            key_BHUK, value_BHUK = (self._heads(part_BUD) for part_BUD in key_value_BUX.chunk(2, dim=-1))
            mixed_BHTK = functional.scaled_dot_product_attention(
                query_BHTK, key_BHUK, value_BHUK, attn_mask=mask, is_causal=is_causal
            )
            mixed_BTD = mixed_BHTK.transpose(1, 2).flatten(-2)
        attended_BTD: Tensor = self.output(mixed_BTD)
        return attended_BTD

    def _heads(self, values_BTD: Tensor) -> Tensor:
        num_customers, num_events, width = values_BTD.shape
        return values_BTD.view(num_customers, num_events, self.num_heads, width // self.num_heads).transpose(1, 2)


class EncoderBlock(nn.Module):
    """x + attention(norm x), then x + feed-forward(norm x)."""

    def __init__(self, width: int, num_heads: int, feed_forward: int, dropout: float) -> None:
        super().__init__()
        self.norm = LayerNorm(width)
        self.attention = Attention(width, num_heads)
        self.feed_forward = _feed_forward(width, feed_forward, dropout)
        self.dropout = Dropout(dropout)

    def forward(self, events_BTD: Tensor, mask: Tensor | Forgetting) -> Tensor:
        """`mask` says which event sees which, as in `Attention`; with a `Forgetting` events are [L, D]."""
        events_BTD = _attended(events_BTD, None, self.norm, self.attention, self.dropout, mask)
        return _fed(events_BTD, self.feed_forward, self.dropout)


class DecoderBlock(nn.Module):
    """As the encoder's, causal, and with attention to a memory between the two."""

    def __init__(self, width: int, num_heads: int, feed_forward: int, dropout: float) -> None:
        super().__init__()
        self.norm = LayerNorm(width)
        self.attention = Attention(width, num_heads)
        self.memory_norm = LayerNorm(width)
        self.memory_attention = Attention(width, num_heads)
        self.feed_forward = _feed_forward(width, feed_forward, dropout)
        self.dropout = Dropout(dropout)

    def forward(self, events_BTD: Tensor, memory_BUD: Tensor, may_see_BU: Tensor) -> Tensor:
        """Each place sees itself and the places before it, and the memory where `may_see_BU`."""
        dropout, mask = self.dropout, may_see_BU[:, None, None, :]
        events_BTD = _attended(events_BTD, None, self.norm, self.attention, dropout, None, is_causal=True)
        events_BTD = _attended(events_BTD, memory_BUD, self.memory_norm, self.memory_attention, dropout, mask)
        return _fed(events_BTD, self.feed_forward, dropout)


def _attended(
    events_BTD: Tensor,
    memory_BUD: Tensor | None,
    norm: LayerNorm,
    attention: Attention,
    dropout: Dropout,
    mask: Tensor | Forgetting | None,
    *,
    is_causal: bool = False,
) -> Tensor:
    """The events, and what they attend to in the memory, or, where there is none, in the events themselves."""
    if fused_block.suits_attention(events_BTD, memory_BUD, norm, attention, mask):
        is_seen_BU = mask[:, 0, 0] if isinstance(mask, Tensor) else None
        return fused_block.attended(events_BTD, memory_BUD, norm, attention, dropout, is_seen_BU, is_causal=is_causal)
    normed_BTD = norm(events_BTD)
    seen_BUD = normed_BTD if memory_BUD is None else memory_BUD
    added_BTD: Tensor = dropout(attention(normed_BTD, seen_BUD, mask, is_causal=is_causal), events_BTD)
    return added_BTD


def _fed(events: Tensor, layers: nn.Sequential, dropout: Dropout) -> Tensor:
    """The events, and what the position-wise layers make of them."""
    norm, up, _, inner_dropout, down = cast("tuple[LayerNorm, nn.Linear, nn.GELU, Dropout, nn.Linear]", tuple(layers))
    if fused_block.suits_feed_forward(events, norm, up.out_features):
        return fused_block.fed(events, norm, up, inner_dropout, down, dropout)
    added: Tensor = dropout(layers(events), events)
    return added


def _feed_forward(width: int, hidden: int, dropout: float) -> nn.Sequential:
    """The position-wise layers, with the norm before them."""
    layers = [LayerNorm(width), nn.Linear(width, hidden), nn.GELU(), Dropout(dropout), nn.Linear(hidden, width)]
    return nn.Sequential(*layers)
