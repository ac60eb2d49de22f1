"""ZenPersonalizationManager: one base, many profiles. The command line and the benches call it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from .adapter.attach import Resident, apply_bitdelta, attached, check, detach, switch
from .adapter.resident import ResidentProfiles
from .base import registry
from .base.loaded import Base, base_info, check_base, check_tokenizer
from .base.pull import pull
from .config import BitDeltaConfig, CompressOptions, TrainOptions
from .data.examples import ImportOptions
from .engine.serving import Serving
from .events import OnEvent, Progress, ignore
from .format.read import read, read_header
from .format.spec import Profile
from .interop.export import FOLDERS, VERSIONS, Exported, export_folder
from .interop.import_profile import foreign_profile
from .interop.parse.detect import is_foreign
from .paths import zen_home
from .profiles.download import download_profile
from .profiles.merge import merge_profiles
from .profiles.store import ProfileStore, base_of
from .recipes.common import CreateReport, RunContext
from .recipes.compress import compress_profile
from .recipes.train import read_data, train_profile
from .train.memory_estimate import FittedOptions, fit_run

__all__ = ["ZenPersonalizationManager", "apply_bitdelta", "base_of", "download_profile", "load_profile"]


def load_profile(path: str | Path) -> Profile:
    """Read and verify the profile at `path`; `FormatError` for anything that is not a whole `.bitdelta`."""
    return read(path)


class ZenPersonalizationManager(Serving):
    """Profiles of one base model.

    model: an alias, a repo id or a folder. config: how `create_profile` trains. home: where profiles are kept (default
    ZEN_HOME; bases always stay there). The base is loaded at first use: `on_pull` follows its download, `on_note` gets
    each sentence its user should know (such as parts of a model that are left out).
    """

    def __init__(
        self,
        model: str | None = None,
        *,
        config: BitDeltaConfig | None = None,
        home: str | Path | None = None,
        on_pull: Progress | None = None,
        on_note: Callable[[str], None] | None = None,
    ) -> None:
        super().__init__()
        self.model_name = model or registry.DEFAULT_MODEL
        self.config = config or BitDeltaConfig()
        self.home = Path(home).expanduser() if home is not None else zen_home()
        self.store = ProfileStore(self.home)
        self.resident = ResidentProfiles()
        self.active: str | None = None
        self._on_pull = on_pull
        self._on_note = on_note or (lambda text: None)
        self._base: Base | None = None

    @property
    def base(self) -> Base:
        """The base, loaded (and fetched) when it is first needed."""
        if self._base is None:
            self._base = Base.load(self.model_name, self._on_pull)
            for note in self._base.info.notes:
                self._on_note(note)
        return self._base

    @property
    def model(self) -> Any:
        """The mlx-lm model, with the active profile on it."""
        return self.base.model

    @property
    def tokenizer(self) -> Any:
        """mlx-lm's `TokenizerWrapper`."""
        return self.base.tokenizer

    def profiles(self) -> list[str]:
        """Names of all profiles in `home`, whatever their base."""
        return self.store.names()

    def create_profile(
        self,
        name: str,
        data: Any,
        *,
        valid: Any = None,
        me: str | Sequence[str] | None = None,
        columns: str | Mapping[str, str] | None = None,
        keep_contacts: bool = False,
        as_text: Sequence[str | Path] | None = None,
        memory_limit: int | None = None,
        resume: bool = False,
        replace: bool = False,
        records: bool = True,
        on_event: OnEvent | None = None,
        **options: Any,
    ) -> CreateReport:
        """Train profile `name` from strings, rows or paths (`data.examples.load_examples`), measure and save it.

        Secrets are scrubbed first. `me`: which sender of chats and mails is learned. `columns`: our fields -> those of
        a table. `keep_contacts`: e-mail addresses and phone numbers stay. `as_text`: files that are learned as texts, also
        when they look like a chat.

        `valid`: held-out data, "none", or None to hold out a part by itself. `on_event` gets each `events.Event`.
        SIGINT saves the run and raises `train.checkpoint.Interrupted`; `resume=True` goes on from there, also after a kill.
        `options`: the fields of `config.TrainOptions`, such as steps, method and bits_per_weight. `records`: a plot of the
        losses and a few answers before and after, beside the log; they stay in `home`. `memory_limit`: bytes that the run may
        take (default: what the machine has); `MemoryLimitError`, before the base is loaded, where it would take more.
        """
        chosen = TrainOptions(config=self.config, **options)
        run = self._run(name, on_event, resume, replace)
        imports = ImportOptions.of(me, columns, keep_contacts, 3 * chosen.max_length, as_text)
        with self._without_profile():
            return train_profile(
                run, data, chosen, valid=valid, imports=imports, memory_limit=memory_limit, records=records
            )

    def plan_profile(
        self,
        data: Any,
        *,
        valid: Any = None,
        me: str | Sequence[str] | None = None,
        columns: str | Mapping[str, str] | None = None,
        keep_contacts: bool = False,
        as_text: Sequence[str | Path] | None = None,
        memory_limit: int | None = None,
        on_event: OnEvent | None = None,
        **options: Any,
    ) -> FittedOptions:
        """The memory that `create_profile` would need with the same arguments; no weight of the base is read."""
        chosen = TrainOptions(config=self.config, **options)
        imports = ImportOptions.of(me, columns, keep_contacts, 3 * chosen.max_length, as_text)
        found = read_data(self._run("", on_event), data, chosen, valid, imports)
        return fit_run(self.model_name, found.rows, found.held_rows, chosen, memory_limit)

    def compress_profile(
        self,
        name: str,
        finetuned: str,
        *,
        text: Any = None,
        valid: Any = None,
        resume: bool = False,
        replace: bool = False,
        on_event: OnEvent | None = None,
        **options: Any,
    ) -> CreateReport:
        """Make profile `name` from a fine-tuned checkpoint of this base, or from a LoRA adapter for it.

        `options`: the fields of `config.CompressOptions`; `bits_per_weight` bounds the whole file, `scale` and
        `planes` ask for signs. `text`: data to weigh the layers with and to distil on; `valid`: data to measure on.
        """
        run = self._run(name, on_event, resume, replace)
        with self._without_profile():
            return compress_profile(run, finetuned, CompressOptions(**options), text=text, valid=valid)

    def _run(self, name: str, on_event: OnEvent | None, resume: bool = False, replace: bool = False) -> RunContext:
        return RunContext(
            store=self.store,
            base_name=self.model_name,
            base=lambda: self.base,
            name=name,
            resume=resume,
            replace=replace,
            on_event=on_event or ignore,
            on_note=self._on_note,
            on_pull=self._on_pull,
        )

    def activate_profile(self, name: str) -> Any:
        """Put profile `name` on the model and return the model; whatever was active stays when this fails.

        A profile that is in memory is switched to by pointing the layers at it. Raises `ProfileNotFoundError`,
        `BaseMismatchError`, `FormatError` or `TargetError`.
        """
        header = self.store.header(name)
        self.base.check(header.base, name)
        check_tokenizer(self.base.info, header.base, name)
        key = header.sha256 or f"{header.path}:{header.file_bytes}"
        resident = self.resident.get(key, lambda: Resident.from_profile(self.store.load(name)))
        switch(self.model, resident)
        self.active = name
        return self.model

    def deactivate(self) -> Any:
        """The base alone, bit for bit; returns the model."""
        if self._base is not None and attached(self.model) is not None:
            switch(self.model, None)
        self.active = None
        return self.model

    @contextlib.contextmanager
    def using(self, name: str | None) -> Iterator[Any]:
        """Within the block profile `name` (None: the base) is active; after it, what was active before."""
        before = self.active
        model = self.activate_profile(name) if name is not None else self.deactivate()
        try:
            yield model
        finally:
            if before is None:
                self.deactivate()
            else:
                self.activate_profile(before)

    def merge_profiles(
        self,
        names: Sequence[str],
        weights: Sequence[float] | None = None,
        *,
        name: str | None = None,
        exact: bool = True,
        replace: bool = False,
    ) -> Profile:
        """sum_i weights[i] * profile_i (default: equal weights that sum to 1), saved as `name` when one is given.

        `exact`: parts side by side, f32 scales. Else one row x col sign plane, with `metrics["merge_error"]`.
        """
        if name is not None:
            self.store.check_free(name, replace)
        merged = merge_profiles(self.store, names, weights, name, exact)
        if name is not None:
            self.store.save(name, merged, replace)
        return merged

    def export_profile(
        self,
        name: str,
        file: str | Path,
        version: int = 2,
        replace: bool = False,
        *,
        format: str | None = None,
        rank: int | None = None,
    ) -> list[str]:
        """Write profile `name` to `file`; returns, in sentences, what that form cannot keep and what to know of it.

        format: `v2` (where nothing is said) or `v1` of our own, `hf` (a folder with base + profile), `mlx-lm` or `peft` (an
        adapter's folder: exact for factors, with `rank` by SVD for anything else). version: 1 or 2, which older callers
        say in place of `v1` or `v2`; a `format` goes before it.
        """
        form = format or f"v{version}"
        return list(self.export_folder(name, file, form, rank=rank, replace=replace).notes)

    def export_folder(
        self, name: str, folder: str | Path, format: str, *, rank: int | None = None, replace: bool = False
    ) -> Exported:
        """`export_profile` in any of its formats, with the error of an approximation. Loads no model.

        `export_profile(format=...)` is enough for a caller who does not ask for the error.
        """
        if format in VERSIONS:
            return Exported(tuple(self.store.export(name, folder, VERSIONS[format], replace)))
        if format in FOLDERS:
            pull(self.model_name, self._on_pull)
            check_base(base_info(self.model_name), self.store.header(name).base, name)
        return export_folder(self.store.load(name), self.model_name, Path(folder), format, rank, replace, self._on_pull)

    def import_profile(self, file: str | Path, name: str | None = None, replace: bool = False) -> str:
        """Keep a copy of the profile in `file`, a .bitdelta, a delta of another program or a LoRA adapter; returns its name.

        Weights of another base are refused (`BaseMismatchError`), names and shapes it lacks too (`TargetError`). A file
        without digests is kept as unverified, for this base; foreign ones never have any.
        """
        if is_foreign(file):
            profile = foreign_profile(file, self.model_name, self._on_pull)
            kept = name or str(profile.info["name"])
            self.store.save(kept, profile, replace)
            return kept
        header = read_header(file)
        self.base.check(header.base, str(file))
        check(self.model, header.tensors)
        base = None
        if not header.base.get("verified"):
            own = self.base.info.header()
            base = {"model": own["model"], "architecture": own["architecture"], "verified": False}
        return self.store.import_file(file, name, replace, base)

    @contextlib.contextmanager
    def _without_profile(self) -> Iterator[None]:
        before = self.active
        try:
            yield
        finally:
            if self._base is not None:
                detach(self.model)
            self.active = None
            if before is not None:
                self.activate_profile(before)
