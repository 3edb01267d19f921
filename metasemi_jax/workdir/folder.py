"""The folder of a run that is to be trained: checked, kept to one process, described."""

import contextlib
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from metasemi_jax import files
from metasemi_jax.config.fields import OF_WEIGHTS
from metasemi_jax.config.form import completed, differing_fields, flatten, only_longer, with_fields
from metasemi_jax.data.dataset import InputSpec
from metasemi_jax.data.splits import Split, split_text
from metasemi_jax.errors import UserError
from metasemi_jax.workdir.run_files import RunFiles


class Workdir(RunFiles):
    """Making the object writes nothing; `create` does."""

    def check(self, config: Any) -> None:
        """Refuse a path that cannot hold this run; writes nothing that stays.

        A run that was stopped before its first checkpoint may begin anew with another config.

        Raises:
          UserError: a file, a folder that cannot be written, or the run of another config.
        """
        files.check_writable(self.path, f'workdir={self.path}')
        if not self.config.exists():
            if self.results.exists() or self.checkpoints.exists():
                raise UserError(
                    f'workdir={self.path} holds a run without its config.json; put that back, '
                    'or name another folder'
                )
        elif self.is_trained() and (fields := differing_fields(begun := self.read_config(), config)):
            if only_longer(begun, config):
                return
            raise UserError(
                f'workdir={self.path} holds a run with another config ({"; ".join(fields)}); '
                'name another folder, or use the same settings to continue that run; to begin a new run with '
                f'its weights, add model.init_from={self.path}'
            )

    def with_choices_of_run(self, config: Any) -> Any:
        """`config` with what its recipe, and published weights, chose when this run began, where it is open.

        A run that is new, or has trained nothing, chooses anew: it may have other settings or images.
        """
        fields = flatten(config)
        by_recipe, by_weights = fields.get('recipe') == 'auto', bool(fields.get('model.init_from'))
        if not (by_recipe or by_weights) or not self.config.exists() or not self.is_trained():
            return config
        there, chosen = flatten(completed(self.read_config())), {}
        if by_recipe:
            chosen = {name: there.get(name) for name, value in fields.items() if value is None}
            chosen['recipe'] = there['recipe']
        if by_weights and there['model.init_from'] == fields['model.init_from']:
            chosen |= {name: there.get(name) for name in OF_WEIGHTS if fields.get(name) in (None, [])}
        return with_fields(config, chosen)

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Make the folder, and keep it to this process; the system lifts the lock of a killed one.

        A block that fails before it has written anything leaves no folder behind.

        Raises:
          UserError: another run is in it.
        """
        absent = next((path for path in (*self.path.parents[::-1], self.path) if not path.exists()), None)

        def refuse() -> None:
            busy = 'another run is in it; wait for its end, or name another folder'
            raise UserError(f'workdir={self.path}: {busy}')

        with files.lock(self.path / '.lock', waiting=refuse):
            try:
                yield
            except BaseException:
                if absent and os.listdir(self.path) == ['.lock']:
                    self._remove_lock(absent)
                raise

    def _remove_lock(self, absent: Path) -> None:
        (self.path / '.lock').unlink()
        # Parents that this process made, unless others have put something into them.
        with contextlib.suppress(OSError):
            for path in (self.path, *self.path.parents):
                path.rmdir()
                if path == absent:
                    break

    def create(
        self,
        config: Any,
        labeled_ids: list[str],
        *,
        validation_ids: Sequence[str] = (),
        class_names: Sequence[str] = (),
        input_spec: InputSpec | None = None,
    ) -> None:
        """Write the files that describe the run, none for what is empty; the folder is `lock`ed."""
        # Before labeled_ids.txt: a run that finds that one draws no split.
        if validation_ids:
            files.write_atomically(self.validation_ids, split_text(validation_ids))
        else:
            # An earlier start, with other settings, has left this file and trained nothing.
            self.validation_ids.unlink(missing_ok=True)
        if class_names:
            files.write_json(self.class_names, list(class_names))
        if input_spec:
            files.write_json(self.input_spec, input_spec._asdict())
        files.write_atomically(self.labeled_ids, split_text(labeled_ids))
        files.write_json(self.config, config.to_dict())

    def check_shared(self, *, seconds: float = 60) -> None:
        """Refuse a folder that is not the one that the primary process has `create`d.

        Args:
          seconds: how long to wait, since a network file system may show new files late.

        Raises:
          UserError: the files of the run are not there.
        """
        deadline = time.monotonic() + seconds
        # Listed, not tested: a network file system may remember that the file was missing.
        while not (self.path.is_dir() and self.config.name in os.listdir(self.path)):
            if time.monotonic() > deadline:
                raise UserError(
                    f'workdir={self.path} is not the folder that the primary process made; '
                    'name one on a file system that all hosts share'
                )
            time.sleep(0.1)

    def describe(self) -> str:
        """The files of a finished run, as lines for people."""
        described = {
            self.results: 'these metrics',
            self.metrics: 'every logged metric; also as TensorBoard events',
            self.checkpoints: 'the latest two and the best',
            self.config: 'the settings',
            self.labeled_ids: 'which images kept their label',
        }
        sometimes = {
            self.validation_ids: 'which labeled images were held out',
            self.class_names: 'the classes, in the order of the outputs',
            self.input_spec: 'shape, mean and deviation of the images',
        }
        described |= {path: what for path, what in sometimes.items() if path.exists()}
        lines = [f'  {path.name + "/" * path.is_dir():<18} {what}' for path, what in described.items()]
        return '\n'.join([f'written to {self.path}', *lines])

    def begun_split(self, config: Any) -> Split | None:
        """The split to go on with under `config`; None where it is to be drawn.

        That is so in a new run, and in one that was begun with another config and has trained nothing.
        """
        if self.config.exists() and not self.is_trained():
            try:
                if differing_fields(self.read_config(), config):
                    return None
            except UserError:
                return None
        return self.read_split()
