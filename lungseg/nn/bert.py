"""BERT: a transformer that reads a sentence of token numbers.

"BERT: Pre-training of Deep Bidirectional Transformers" (Devlin et al. 2019, https://arxiv.org/abs/1810.04805), whose
blocks are those of "Attention Is All You Need" (Vaswani et al. 2017, section 3.1). Two things differ from a ViT block:

- the LayerNorm comes after the addition (post-norm): norm(x + f(x)), and not x + f(norm(x));
- sentences of one batch have different lengths. They are padded with token 0, and padding is kept out of attention.

With equal weights the output equals the last hidden state of BertModel in transformers. Its pooler (a further linear
layer with tanh on [CLS]) is not part of BiomedCLIP, nor of this file. Its dropout of 0.1 in training is left out, too.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lungseg.nn.arguments import check_counts, check_mlp_ratio
from lungseg.nn.layers import MLP, width_init

PADDING = 0  # the number of the token [PAD]
EPS = 1e-12  # of every LayerNorm


class BertBlock(nn.Module):
    """Self-attention, add, LayerNorm; MLP, add, LayerNorm. Vaswani et al. 2017, section 3.1.

    Args:
        dim: channels K of a token.
        num_heads: attention heads; must divide dim.
        mlp_ratio: hidden channels of the MLP, as a multiple of dim.
    """

    def __init__(self, dim: int, num_heads: int, *, mlp_ratio: float = 4.0):
        super().__init__()
        if dim % num_heads:
            raise ValueError(
                f"BertBlock: num_heads={num_heads} does not divide dim={dim}. Choose a dim that is a multiple of it."
            )
        self.num_heads = num_heads
        self.query, self.key, self.value, self.proj = (nn.Linear(dim, dim) for _ in range(4))
        self.norm1 = nn.LayerNorm(dim, eps=EPS)
        self.mlp = MLP(dim, int(dim * mlp_ratio))
        self.norm2 = nn.LayerNorm(dim, eps=EPS)

    def forward(self, x: Tensor, attn_mask: Tensor) -> Tensor:
        """(B, N, K) and attn_mask (B, N) bool, True = may be attended to, -> (B, N, K)."""
        x = self.norm1(x + self.attend(x, attn_mask))
        return self.norm2(x + self.mlp(x))

    def attend(self, x: Tensor, attn_mask: Tensor) -> Tensor:
        """Multi-head self-attention in which nobody attends to padding: (B, N, K) -> (B, N, K)."""
        q, k, v = (
            linear(x).unflatten(2, (self.num_heads, -1)).transpose(1, 2)  # (B, heads, N, K / heads)
            for linear in (self.query, self.key, self.value)
        )
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=attn_mask[:, None, None, :])  # for all heads, queries
        return self.proj(mixed.transpose(1, 2).flatten(2))  # (B, N, K): heads side by side


class BERT(nn.Module):
    """Word, position and type embeddings, LayerNorm, then the blocks. The defaults are BERT-base and PubMedBERT.

    Args:
        vocab_size: tokens in the vocabulary.
        max_length: the longest sentence in tokens: the rows of the position table.
        dim: channels K of a token.
        depth: blocks.
        num_heads: attention heads; must divide dim.
        mlp_ratio: hidden channels of each MLP, as a multiple of dim.

    Raises:
        ValueError: for counts below 1, heads that do not divide dim, or (in forward) ids that are not (B, N) integers
            of the vocabulary with 1 <= N <= max_length, or a sentence that is all padding.
    """

    def __init__(
        self,
        *,
        vocab_size: int = 30522,
        max_length: int = 512,
        dim: int = 768,
        depth: int = 12,
        num_heads: int = 12,
        mlp_ratio: float = 4.0,
    ):
        super().__init__()
        check_counts("BERT", vocab_size=vocab_size, max_length=max_length, dim=dim, depth=depth, num_heads=num_heads)
        check_mlp_ratio("BERT", dim, mlp_ratio)
        self.word_embedding = nn.Embedding(vocab_size, dim)
        self.position_embedding = nn.Embedding(max_length, dim)
        self.type_embedding = nn.Embedding(2, dim)  # first or second of two sentences; here there is only a first
        self.norm = nn.LayerNorm(dim, eps=EPS)
        self.blocks = nn.ModuleList(BertBlock(dim, num_heads, mlp_ratio=mlp_ratio) for _ in range(depth))
        self.apply(width_init)

    def embed(self, ids: Tensor) -> Tensor:
        """(B, N) -> (B, N, K): the sum of three embeddings, normalised."""
        positions = self.position_embedding.weight[: ids.shape[1]]  # (N, K)
        return self.norm(self.word_embedding(ids) + positions + self.type_embedding.weight[0])

    def forward(self, ids: Tensor) -> Tensor:
        """Token numbers (B, N), padded with 0 at the end -> (B, N, K); what stands at padding means nothing."""
        self.check(ids)
        attn_mask = ids != PADDING  # (B, N), True = may be attended to
        x = self.embed(ids)
        for block in self.blocks:
            x = block(x, attn_mask)
        return x

    def check(self, ids: Tensor) -> None:
        """Refuse what an embedding table would answer with an index error, or attention with NaN."""
        vocab_size, max_length = self.word_embedding.num_embeddings, self.position_embedding.num_embeddings
        integers = isinstance(ids, Tensor) and ids.dtype in (torch.int32, torch.int64)
        if not integers or ids.dim() != 2 or not 1 <= ids.shape[1] <= max_length or not len(ids):
            got = f"{tuple(ids.shape)} {ids.dtype}" if isinstance(ids, Tensor) else type(ids).__name__
            raise ValueError(
                f"BERT: expected token numbers (B, N), integers, with at most {max_length} tokens per sentence, got "
                f"{got}. Make them with lungseg.wordpiece.WordPiece(vocabulary)(sentences, context={max_length})."
            )
        if ids.is_meta:
            return  # no values to look at
        low, high = ids.min().item(), ids.max().item()
        if low < 0 or high >= vocab_size:
            raise ValueError(
                f"BERT: token numbers run from {low} to {high}, but this network has a vocabulary of {vocab_size}. "
                f"Use the vocabulary file it was trained with."
            )
        if (ids == PADDING).all(dim=1).any():
            raise ValueError("BERT: a sentence is all padding. Even an empty one has the tokens [CLS] and [SEP].")
