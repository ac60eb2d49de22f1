"""The stages between a fine-tuned model and the tensors of a profile.

rate control (bits per weight)  ->  closed form, tensor by tensor  ->  distillation, when there is text
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import numpy as np

from ..adapter.attach import Resident, attach, detach
from ..base.load import load_model
from ..base.loaded import Base
from ..codec.difference import Delta
from ..codec.parts import Part
from ..config import CompressOptions
from ..data.tokens import TokenRow
from ..encode.closed_form import encode
from ..encode.layer_stats import LayerStats
from ..encode.rate_allocation import Choice, Spectrum, allocate, encode_choice, layout_of_choice, spectrum
from ..errors import ConfigError, InputError
from ..events import OnEvent, Stage, ignore
from ..format.layout import layout_of, row_count
from ..format.spec import IDENTITY, DeltaTensor, Profile, now, profile_info
from ..format.write import file_bytes
from ..train.calibration import CalibrationStats, importance
from .finetune import FineTune

METRICS_BYTES = 1024
"""What the metrics, which are not known yet when bits are shared out, may add to a header."""


@dataclass(frozen=True)
class Weighed:
    """What rate control knows of a fine-tune: the targets' spectra, and the other changed tensors, encoded."""

    spectra: Mapping[str, Spectrum]
    fixed: Mapping[str, DeltaTensor]
    stats: Sequence[LayerStats]


class Compression:
    """The stages of one compression of `tuned`.

    weighed: found where it is wanted, unless it is set to what as many bits or more found on the same text.
    with_identity: whether the header holds the base's digests of `IDENTITY`.
    """

    def __init__(
        self, tuned: FineTune, base: Callable[[], Base], options: CompressOptions, on_event: OnEvent = ignore
    ) -> None:
        self.tuned, self.base, self.options, self.on_event = tuned, base, options, on_event
        self.created = now()
        self.weighed: Weighed | None = None
        self.with_identity = True

    def profile(self, name: str, tensors: Mapping[str, DeltaTensor]) -> Profile:
        """The profile of `tensors`, without metrics."""
        header = self.tuned.header(tensors)
        return Profile(
            info=profile_info(name, self.created, "compress"),
            base={key: value for key, value in header.items() if self.with_identity or key not in IDENTITY},
            metrics={},
            target_count=self.tuned.target_count,
            model_count=self.tuned.model_count,
            tensors=dict(tensors),
        )

    def file_bytes(self, tensors: Mapping[str, DeltaTensor]) -> int:
        """The size of a file of `tensors`, without metrics and under a name of 64 letters."""
        described = {name: _described(tensor) for name, tensor in tensors.items()}
        return file_bytes(self.profile("x" * 64, tensors), described)

    def closed_form(self, rows: list[TokenRow] | None = None) -> tuple[dict[str, DeltaTensor], list[LayerStats]]:
        """Every changed tensor, encoded; with `rows` the targets lose least of what their layers put out on them."""
        options = self.options
        scale, block = options.scale_and_block
        model = self.base().model if rows else None
        choices, fixed, stats = self._choices(rows)
        tensors = dict(fixed)

        def show(model: Any) -> None:
            detach(model)
            if tensors:
                attach(model, Resident.from_profile(self.profile("unfinished", tensors), consume=False))

        calibration = CalibrationStats(model, rows, lambda: show(model)) if rows and model is not None else None

        def parts_of(name: str, delta: Delta) -> Sequence[Part]:
            moment = calibration.of(name) if calibration else None
            choice = self._everywhere(delta.shape) if choices is None else choices.get(name, Choice())
            parts = encode_choice(np.asarray(delta), choice, moment, scale, block) if not choice.empty else ()
            if parts:
                tensors[name] = DeltaTensor(delta.shape, parts)
            return parts

        order = calibration.order if calibration else sorted(self.tuned.targets)
        try:
            made, more = self._encode(order if choices is not None else None, order, parts_of, "compressing")
        finally:
            if model is not None:
                detach(model)
        if not {**fixed, **made}:
            raise InputError(f"no change from {self.tuned.base_name}: nothing to keep", path=self.tuned.folder)
        self._check_size({**fixed, **made})
        return {**fixed, **made}, [*stats, *more]

    def _everywhere(self, shape: tuple[int, ...]) -> Choice:
        """The choice of every layer where none is made: planes, or groups as far as the shape has room for them."""
        if self.options.groups is None:
            return Choice((), self.options.planes or 1)
        room, groups = min(shape[-2:]), []
        for bits, rank in self.options.groups:
            if kept := min(rank, room):
                groups.append((bits, kept))
            room -= kept
        return Choice(tuple(groups))

    def _encode(
        self, only: Sequence[str] | None, order: Sequence[str], parts_of: Any, stage: str
    ) -> tuple[dict[str, DeltaTensor], list[LayerStats]]:
        """`encode` over the names of `only` (None: all of them, the targets last and in `order`)."""
        known = set(self.tuned.names)
        names = [name for name in (order if only is None else only) if name in known]
        if only is None:
            names = [name for name in self.tuned.names if name not in set(order)] + names
        return encode(
            names,
            self.tuned.base_of,
            self.tuned.tuned_of,
            targets=self.tuned.targets,
            growing=self.tuned.shapes,
            parts_of=parts_of,
            progress=lambda tensor, done, total: self.on_event(Stage(stage, done, total or 0)),
        )

    def _choices(
        self, rows: list[TokenRow] | None
    ) -> tuple[dict[str, Choice] | None, Mapping[str, DeltaTensor], Sequence[LayerStats]]:
        """(the choice of every target, the other changed tensors); (None, {}) where there is nothing to choose."""
        options = self.options
        bits = options.bits_per_weight
        if bits is None or options.planes is not None or options.groups is not None:
            return None, {}, []
        scale, block = options.scale_and_block
        self.weighed = self.weighed or self._weigh(rows, bits)
        spectra, fixed = self.weighed.spectra, self.weighed.fixed
        if not spectra:
            return {}, fixed, self.weighed.stats
        described = {name: _described(tensor) for name, tensor in fixed.items()}
        facts = self.profile("x" * 64, fixed)

        def size_of(choices: Mapping[str, Choice]) -> int:
            layouts = {
                name: (spectra[name].shape, layout_of_choice(choice, scale, block), None)
                for name, choice in choices.items()
                if not choice.empty
            }
            return file_bytes(facts, {**described, **layouts}) + METRICS_BYTES

        budget = int(bits * self.tuned.target_count / 8)
        found = allocate(spectra, size_of, budget, scale=scale, block=block, kinds=options.kinds)
        return found, fixed, self.weighed.stats

    def _weigh(self, rows: list[TokenRow] | None, bits: float) -> Weighed:
        """The spectra, of as many components as `bits` can pay for."""
        scale, _ = self.options.scale_and_block
        factors = "factor" in self.options.kinds
        spectra: dict[str, Spectrum] = {}
        weights: Mapping[str, float] = {}
        calibration = None
        if rows:
            model = self.base().model
            self.on_event(Stage("weighing the layers", 0, 1))
            weights = importance(model, rows)
            calibration = CalibrationStats(model, rows)

        def parts_of(name: str, delta: Delta) -> Sequence[Part]:
            n, k = delta.shape[-2:]
            rank = int(0.75 * bits * n * k / (n + k)) + 8 if factors else 1
            moment = calibration.of(name) if calibration else None
            spectra[name] = spectrum(np.asarray(delta), rank, moment, weights.get(name, 1.0), scale)
            return ()

        order = calibration.order if calibration else sorted(self.tuned.targets)
        fixed, stats = self._encode(None, order, parts_of, "weighing the layers")
        return Weighed(spectra, fixed, stats)

    def _check_size(self, tensors: Mapping[str, DeltaTensor]) -> None:
        """ConfigError where planes that were asked for do not fit the bits that were asked for."""
        bits = self.options.bits_per_weight
        if bits is None:
            return
        found = 8 * (self.file_bytes(tensors) + METRICS_BYTES) / self.tuned.target_count
        if found > bits:
            raise ConfigError(
                "what was asked for takes more bits",
                field="bits_per_weight",
                expected=f"at least {found:.4f}",
                found=bits,
                hint="leave out --planes and --scale, and every layer gets what fits",
            )

    @contextlib.contextmanager
    def teacher(self) -> Iterator[Any]:
        """The fine-tune: its own checkpoint, or the base with the adapter on it."""
        if self.tuned.adapter is None:
            model: Any = load_model(self.tuned.folder)
            try:
                yield model
            finally:
                del model
                mx.clear_cache()
            return
        model = self.base().model
        detach(model)
        attach(model, Resident.from_profile(self.tuned.adapter, consume=False))
        try:
            yield model
        finally:
            detach(model)


def _described(tensor: DeltaTensor) -> tuple[tuple[int, ...], list[dict[str, Any]], int | None]:
    return tensor.shape, [layout_of(part) for part in tensor.parts], row_count(tensor.parts)
