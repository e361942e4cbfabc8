"""The compact model's text encoder: MiniLM (Wang et al. 2020), a small BERT (Devlin et al. 2019)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diffusionsat.models.networks import lost_word


class TextEncoder(nn.Module):
    """Token ids to token states, as all-MiniLM-L6-v2 computes them before pooling.

    Args:
        vocabulary: Number of token ids.
        width: Width of the token states.
        layers: Number of layers.
        heads: Attention heads a layer.
        hidden: Width inside the feed-forward part.
        positions: Longest sequence of tokens.
    """

    def __init__(
        self,
        *,
        vocabulary: int = 30522,
        width: int = 384,
        layers: int = 6,
        heads: int = 12,
        hidden: int = 1536,
        positions: int = 128,
    ) -> None:
        super().__init__()
        self.tokens = nn.Embedding(vocabulary, width)
        self.positions = nn.Embedding(positions, width)  # the one segment's embedding is added in conversion
        self.norm = nn.LayerNorm(width, eps=1e-12)
        self.layers = nn.ModuleList(_Layer(width, heads, hidden) for _ in range(layers))

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Token states (B, T, width) of ids (B, T) int64; mask (B, T) is True on tokens, False on padding."""
        x = self.norm(self.tokens(ids) + self.positions.weight[: ids.shape[1]])
        for layer in self.layers:
            x = layer(x, mask)
        return x


class _Layer(nn.Module):
    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.norm_attention = nn.LayerNorm(width, eps=1e-12)
        self.up = nn.Linear(width, hidden)
        self.down = nn.Linear(hidden, width)
        self.norm_hidden = nn.LayerNorm(width, eps=1e-12)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        b, t, c = x.shape
        q, k, v = self.qkv(x).view(b, t, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(q, k, v, attn_mask=mask[:, None, None, :])
        x = self.norm_attention(x + self.out(attended.transpose(1, 2).reshape(b, t, c)))
        return self.norm_hidden(x + self.down(F.gelu(self.up(x))))


def from_bert(weights: dict[str, Tensor], positions: int) -> dict[str, Tensor]:
    """State dict of a `TextEncoder` from one of transformers' BERT, e.g. all-MiniLM-L6-v2's."""
    ours = {
        "tokens.weight": weights["embeddings.word_embeddings.weight"],
        "positions.weight": weights["embeddings.position_embeddings.weight"][:positions]
        + weights["embeddings.token_type_embeddings.weight"][0],
        "norm.weight": weights["embeddings.LayerNorm.weight"],
        "norm.bias": weights["embeddings.LayerNorm.bias"],
    }
    names = {
        "out": "attention.output.dense",
        "norm_attention": "attention.output.LayerNorm",
        "up": "intermediate.dense",
        "down": "output.dense",
        "norm_hidden": "output.LayerNorm",
    }
    layers = 1 + max(int(key.split(".")[2]) for key in weights if key.startswith("encoder.layer."))
    for i in range(layers):
        for kind in ("weight", "bias"):
            theirs = f"encoder.layer.{i}."
            qkv = [weights[f"{theirs}attention.self.{part}.{kind}"] for part in ("query", "key", "value")]
            ours[f"layers.{i}.qkv.{kind}"] = torch.cat(qkv)
            for name, their_name in names.items():
                ours[f"layers.{i}.{name}.{kind}"] = weights[f"{theirs}{their_name}.{kind}"]
    return ours


class Prompter:
    """Words to token states: a tokenizer and a `TextEncoder`.

    Args:
        tokenizer: A `tokenizers.Tokenizer` as its JSON text.
        encoder: The network.
        max_tokens: Tokens of the longest prompt, the two that mark begin and end included.
    """

    def __init__(self, tokenizer: str, encoder: TextEncoder, max_tokens: int) -> None:
        from tokenizers import Tokenizer

        self.tokenizer = Tokenizer.from_str(tokenizer)
        self.tokenizer.no_truncation()
        self.tokenizer.no_padding()
        self.encoder, self.max_tokens = encoder, max_tokens

    def lost(self, prompt: str) -> str | None:
        """The first word of a prompt that does not fit; None if all of it does."""
        return lost_word(self.tokenizer, prompt, self.max_tokens)

    @torch.inference_mode()
    def __call__(self, prompts: list[str]) -> tuple[Tensor, Tensor]:
        """Token states (B, T, width) and their mask (B, T); T is the longest prompt's tokens.

        A prompt that is too long keeps its first words.
        """
        begin_end = [encoding.ids for encoding in self.tokenizer.encode_batch(prompts)]
        ids = [i if len(i) <= self.max_tokens else [*i[: self.max_tokens - 1], i[-1]] for i in begin_end]
        longest = max(len(i) for i in ids)
        device = self.encoder.norm.weight.device
        padded = torch.tensor([i + [0] * (longest - len(i)) for i in ids], device=device)
        mask = torch.tensor([[True] * len(i) + [False] * (longest - len(i)) for i in ids], device=device)
        return self.encoder(padded, mask), mask
