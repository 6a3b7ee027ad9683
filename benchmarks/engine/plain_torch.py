"""The torch contestants: transformers' `generate`, and one plain decoder pass over the caption's prefix.

Both get the same uint8 pictures as our engine; rescaling and normalisation are inside what is timed, as in our graphs.
"""

from __future__ import annotations

import copy

import torch

from benchmarks.engine.contestants import Answer, Entry, NotHereError
from contract.errors import ContractError
from contract.pixels import Pixels
from modeling.checkpoint import Checkpoint
from modeling.towers import pixel_values

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
NEW_TOKENS = 6  # "a photo of delicious 5" and [SEP]: what a tuned caption has after [DEC]


class _Torch:
    """A copy of the checkpoint's model on a device."""

    def __init__(self, checkpoint: Checkpoint, device: str, precision: str) -> None:
        self.dtype = precision
        self.device = torch.device(device)
        self.model = copy.deepcopy(checkpoint.model).to(device=self.device, dtype=DTYPES[precision]).eval()

    def images(self, pixels: Pixels) -> torch.Tensor:
        """uint8 pixels [B, S, S, 3] → normalised images [B, 3, S, S] on the device, in the model's type."""
        return pixel_values(self.model, torch.from_numpy(pixels).to(self.device)).to(DTYPES[self.dtype])

    def synchronise(self) -> None:
        """Wait for the device, so that what is timed is done."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def close(self) -> None:
        """Give the memory back."""
        del self.model
        if self.device.type == "cuda":
            torch.cuda.empty_cache()


class Generate(_Torch):
    """`BlipForConditionalGeneration.generate`: greedy, exactly `NEW_TOKENS` new tokens, as the original serves it."""

    @torch.inference_mode()
    def run(self, pixels: Pixels) -> Answer:
        """See `Contestant`; the tokens start with [DEC]."""
        self.synchronise()
        rows = self.model.generate(
            pixel_values=self.images(pixels), do_sample=False, num_beams=1,
            min_new_tokens=NEW_TOKENS, max_new_tokens=NEW_TOKENS,
        )  # fmt: skip
        self.synchronise()
        tokens: list[list[int]] = rows.tolist()
        if any(len(row) != 1 + NEW_TOKENS for row in tokens):
            raise ContractError(f"generate gave {len(tokens[0]) - 1} new tokens, not {NEW_TOKENS}.")
        return Answer(tokens=tokens)


class OnePass(_Torch):
    """The stock model: one pass over the prefix, log-softmax over the labels' tokens. Needs one-token targets (ids)."""

    def __init__(self, checkpoint: Checkpoint, device: str, precision: str) -> None:
        super().__init__(checkpoint, device, precision)
        tree = checkpoint.tree()
        if tree is None or len(tree.fork_rows) != 1:
            raise ContractError("One pass over the prefix tells labels apart only if each has a token of its own.")
        self._prefix = torch.tensor(tree.fork_paths(), device=self.device)
        order = tree.membership.argmax(axis=1).argsort()  # the choices in the labels' order
        self._labels = torch.from_numpy(tree.choice_token[order]).to(self.device)

    @torch.inference_mode()
    def run(self, pixels: Pixels) -> Answer:
        """See `Contestant`."""
        self.synchronise()
        logprobs = self._logprobs(self.images(pixels)).cpu()
        self.synchronise()
        return Answer(logprobs=logprobs.numpy())

    def _logprobs(self, images: torch.Tensor) -> torch.Tensor:
        """Normalised images [B, 3, S, S] → label log-probabilities float32 [B, labels], on the device."""
        embeds = self.model.vision_model(pixel_values=images).last_hidden_state
        prefix = self._prefix.expand(len(images), -1)
        logits = self.model.text_decoder(input_ids=prefix, encoder_hidden_states=embeds, use_cache=False).logits
        return logits[:, -1, self._labels].float().log_softmax(dim=-1)


class Compiled(OnePass):
    """The same through torch.compile, each batch size for itself; the first call of a size compiles."""

    def __init__(self, checkpoint: Checkpoint, device: str, precision: str) -> None:
        super().__init__(checkpoint, device, precision)
        self._compiled = torch.compile(super()._logprobs, dynamic=False, mode="reduce-overhead")

    def _logprobs(self, images: torch.Tensor) -> torch.Tensor:
        return self._compiled(images)


def load_torch(entry: Entry, checkpoint: Checkpoint, *, asked: bool, bf16: bool) -> Generate | OnePass:
    """The contestant of `entry`. `bf16`: the device multiplies it; where not, it runs only if `asked` for by name."""
    if entry.precision == "bf16" and not bf16 and not asked:
        raise NotHereError(f"this processor has no bf16 arithmetic; --only {entry.name} runs it all the same")
    if "compiled" in entry.name and not asked:
        raise NotHereError(f"compiling takes minutes; --only {entry.name} runs it")
    kind = Compiled if "compiled" in entry.name else OnePass if entry.name.startswith("one-pass") else Generate
    return kind(checkpoint, entry.device, entry.precision)


def like_for_like(threads: int) -> None:
    """The settings of torch that make its fp32 the same arithmetic as ours: no TF32 on a GPU, the same threads."""
    torch.set_num_threads(threads)
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
