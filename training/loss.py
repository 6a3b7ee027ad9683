"""The loss of a batch, in one decoder pass a photo.

    label term     -log p(label) over the label set, held to the labels' tokens: exactly what scoring computes, so that
                   soft targets (label smoothing, mixup) are well defined for ids and for names
    caption term   cross-entropy of the whole caption over the full vocabulary, of small weight: it keeps free captions
                   in form. Padding is masked out.

The image tower runs without gradients and in eval mode while it is frozen. While training, whole channels of its tokens
may be left out, others for each photo (spatial drop-out, Tompson et al. 2015, arXiv:1411.4280): a decoder that has seen
few photos then relies on no single channel.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn
from transformers import BlipForConditionalGeneration

from modeling.captions import IGNORED, PackedCaptions
from modeling.towers import embed_pixels


class CaptionLoss(nn.Module):
    """Loss of each photo. A module of its own, so that mixed precision and several processes can wrap it."""

    tokens: torch.Tensor
    positions: torch.Tensor
    mask: torch.Tensor
    spoken: torch.Tensor
    following: torch.Tensor
    choice_row: torch.Tensor
    choice_fork: torch.Tensor
    choice_token: torch.Tensor
    membership: torch.Tensor

    def __init__(
        self,
        model: BlipForConditionalGeneration,
        captions: PackedCaptions,
        *,
        caption_weight: float,
        smoothing: float,
        channel_dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.model, self.caption_weight, self.smoothing = model, caption_weight, smoothing
        self.channel_dropout = channel_dropout
        tree = captions.tree
        length = captions.tokens.shape[1] if caption_weight else len(tree.tokens)  # without the term: the tree alone
        edges = torch.from_numpy(tree.choice_fork).bincount().cumsum(0).tolist()  # the choices stand fork by fork
        self.fork_choices = [slice(start, end) for start, end in zip([0, *edges], edges, strict=False)]
        for name, value in {
            "tokens": captions.tokens[:, :length],
            "positions": captions.positions[:, :length],
            "mask": captions.mask[:, :length, :length],
            "spoken": captions.spoken,
            "following": captions.following,
            "choice_row": torch.from_numpy(tree.fork_rows[tree.choice_fork]),
            "choice_fork": torch.from_numpy(tree.choice_fork),
            "choice_token": torch.from_numpy(tree.choice_token),
            "membership": torch.from_numpy(tree.membership),
        }.items():
            self.register_buffer(name, value, persistent=False)

    @property
    def tower_is_frozen(self) -> bool:
        """No parameter of the image tower trains."""
        return not any(p.requires_grad for p in self.model.vision_model.parameters())

    def train(self, mode: bool = True) -> CaptionLoss:
        """Train mode for what trains; a frozen image tower stays in eval mode."""
        super().train(mode)
        if self.tower_is_frozen:
            self.model.vision_model.eval()
        return self

    def forward(
        self, images: torch.Tensor, labels: torch.Tensor, targets: torch.Tensor, *, embedded: bool = False
    ) -> torch.Tensor:
        """Loss float32 [B].

        images    pixels [B, S, S, 3] (0..255), or image embeddings [B, tokens, width] where `embedded`
        labels    int64 [B], whose captions the caption term spells
        targets   float32 [B, L], the labels or a mixture of them; rows sum to one
        """
        if embedded:
            embeds = images
        else:
            with torch.set_grad_enabled(torch.is_grad_enabled() and not self.tower_is_frozen):
                embeds = embed_pixels(self.model, images)
        if self.channel_dropout:
            embeds = F.dropout1d(embeds.transpose(1, 2), self.channel_dropout, self.training).transpose(1, 2)
        decoder = self.model.text_decoder
        hidden = decoder.bert(
            input_ids=self.tokens[labels],
            position_ids=self.positions[labels],
            attention_mask=self.mask[labels][:, None],
            encoder_hidden_states=embeds,
            is_decoder=True,
            use_cache=False,
        ).last_hidden_state
        head = decoder.cls.predictions
        hidden = head.transform(hidden)
        spread = (1 - self.smoothing) * targets + self.smoothing / targets.shape[1]
        loss = -(spread * self._label_logprobs(hidden)).sum(1)
        if self.caption_weight:
            rows = self.spoken[labels]
            spoken = hidden.gather(1, rows[:, :, None].expand(-1, -1, hidden.shape[2]))
            following = self.following[labels]
            logits = head.decoder(spoken).float()
            wrong = F.cross_entropy(
                logits.flatten(0, 1), following.flatten(), ignore_index=IGNORED, reduction="none"
            ).view_as(following)
            loss = loss + self.caption_weight * wrong.sum(1) / (following != IGNORED).sum(1)
        return loss

    def _label_logprobs(self, hidden: torch.Tensor) -> torch.Tensor:
        """Head states [B, T, D] → label log-probabilities float32 [B, L], from the rows of the labels' tokens only."""
        head = self.model.text_decoder.cls.predictions.decoder
        states = hidden[:, self.choice_row]  # [B, C, D]
        chosen = (states * head.weight[self.choice_token]).sum(-1).float() + head.bias[self.choice_token]
        total = torch.stack([chosen[:, rows].logsumexp(1) for rows in self.fork_choices], dim=1)
        with torch.autocast(hidden.device.type, enabled=False):  # sums of log-probabilities stay float32
            return (chosen - total[:, self.choice_fork]) @ self.membership
