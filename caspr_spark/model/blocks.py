"""The transformer block of encoder and decoder: pre-norm, residual, with masked padding. No statistic of a batch."""

from torch import Tensor, nn
from torch.nn import functional

from caspr_spark.model import small_heads
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
        elif small_heads.suits(query_BTD, self.num_heads, mask):
            is_seen_BU = None if mask is None else mask[:, 0, 0]
            mixed_BTD = small_heads.attention(query_BTD, key_value_BUX, self.num_heads, is_seen_BU, is_causal=is_causal)
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
        normed_BTD = self.norm(events_BTD)
        attended_BTD = self.attention(normed_BTD, normed_BTD, mask)
        events_BTD = self.dropout(attended_BTD, events_BTD)
        added_BTD: Tensor = self.dropout(self.feed_forward(events_BTD), events_BTD)
        return added_BTD


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
        normed_BTD = self.norm(events_BTD)
        events_BTD = self.dropout(self.attention(normed_BTD, normed_BTD, None, is_causal=True), events_BTD)
        recalled_BTD = self.memory_attention(self.memory_norm(events_BTD), memory_BUD, may_see_BU[:, None, None, :])
        events_BTD = self.dropout(recalled_BTD, events_BTD)
        added_BTD: Tensor = self.dropout(self.feed_forward(events_BTD), events_BTD)
        return added_BTD


def _feed_forward(width: int, hidden: int, dropout: float) -> nn.Sequential:
    """The position-wise layers, with the norm before them."""
    layers = [LayerNorm(width), nn.Linear(width, hidden), nn.GELU(), Dropout(dropout), nn.Linear(hidden, width)]
    return nn.Sequential(*layers)
