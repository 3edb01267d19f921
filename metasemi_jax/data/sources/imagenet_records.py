"""ImageNet in the array_record files that TFDS has prepared of it."""

import io
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from metasemi_jax.data.images.attempts import check_all
from metasemi_jax.data.images.decode import check_image
from metasemi_jax.data.sources.image_records import ImageRecords
from metasemi_jax.data.sources.tfds_store import is_prepared
from metasemi_jax.errors import UserError
from metasemi_jax.progress import ProgressLine


class RecordSource:
    """A source as `TarSource`: a folder in which TFDS has prepared the training and validation images."""

    def __init__(self, root: Path, name: str, version: str):
        import tensorflow_datasets as tfds

        self._builder = tfds.builder_cls(name)(data_dir=str(root), version=version)
        self.place = self._builder.data_dir
        is_prepared(self._builder)
        counts = {split: info.num_examples for split, info in self._builder.info.splits.items()}
        lacking = [split for split in ('train', 'validation') if split not in counts]
        if lacking:
            raise UserError(
                f'{name}: {self.place} lacks the split {lacking[0]}; delete that folder to read the archives '
                'in its place, or use another one with data.data_dir='
            )
        self._counts = counts['train'], counts['validation']

    def matches(self, arrays: Mapping[str, np.ndarray]) -> bool:
        """Whether `arrays`, perhaps of a version without `TarSource`, index as many images as there are."""
        return self._counts == (len(arrays['train_labels']), len(arrays['validation_labels']))

    def index(self, line: ProgressLine) -> tuple[dict[str, np.ndarray], list[str]]:
        """Labels and ids in the stored order, and the names of the classes; decodes every image, in small."""
        records = ImageRecords(self._builder, 'train+validation')
        ids, labels = [f'record {i}' for i in range(len(records))], np.empty(len(records), np.int32)

        def check(i: int) -> None:
            example = records.example(i)
            ids[i], labels[i] = example['file_name'].decode(), example['label']
            check_image(io.BytesIO(example['image']))

        name, advice = self._builder.name, f'delete {self.place} to read the archives in its place'
        check_all(check, ids, line, name, advice)
        n, ids = self._counts[0], np.array(ids)
        arrays = {'train_labels': labels[:n], 'train_ids': ids[:n]}
        arrays |= {'validation_labels': labels[n:], 'validation_ids': ids[n:]}
        return arrays, self._builder.info.features['label'].names

    def images(self, split: str, arrays: Mapping[str, np.ndarray]) -> ImageRecords:
        """The encoded images of `split`."""
        del arrays  # the records know their places
        return ImageRecords(self._builder, split)
