import pytest

from metasemi_jax.data.split_files import read_split_file
from metasemi_jax.data.splits import split_text
from metasemi_jax.errors import UserError

TFDS_IDS = [f'train_{i:05d}' for i in range(120)]
DIGITS_IDS = [f'{i:04d}' for i in (3, 7, 20, 1500)]
FILE_IDS = ['labeled/a b/1.png', 'labeled/a b/2.png', 'unlabeled/3.png']


def read(tmp_path, text, ids):
    (tmp_path / 'split.txt').write_text(text)
    return read_split_file(str(tmp_path / 'split.txt'), ids)


@pytest.mark.parametrize('ids', [TFDS_IDS, DIGITS_IDS, FILE_IDS])
def test_our_own_list(tmp_path, ids):
    chosen = sorted(ids)[:2]
    assert read(tmp_path, split_text(chosen), ids) == chosen
    assert read(tmp_path, '\r\n'.join(reversed(chosen)), ids) == chosen


@pytest.mark.parametrize('text', ['3\n20\n7\n', '3 20 7', ' 3\t20\r\n7 \n\n'])
def test_the_official_program_names_positions(tmp_path, text):
    assert read(tmp_path, text, TFDS_IDS) == ['train_00003', 'train_00007', 'train_00020']
    assert read(tmp_path, text, DIGITS_IDS) == ['0003', '0007', '0020']


def test_a_label_after_the_name(tmp_path):
    """As in lists for programs on unpacked archives."""
    ids = [f'n01440764_{i}.JPEG' for i in range(4)]
    text = 'n01440764/n01440764_3.JPEG 0\ntrain/n01440764/n01440764_1.JPEG\t0\n'
    assert read(tmp_path, text, ids) == [ids[1], ids[3]]
    with pytest.raises(UserError, match=r'does not hold: n01440764/n01440764_9.JPEG 0'):
        read(tmp_path, 'n01440764/n01440764_9.JPEG 0\n', ids)


def test_positions_are_of_the_training_split(tmp_path):
    """Where there is another one beside it, as in STL-10."""
    ids = [*TFDS_IDS, *(f'unlabelled_{i:06d}' for i in range(7))]
    assert read(tmp_path, '3 5', ids) == ['train_00003', 'train_00005']


def test_what_is_refused(tmp_path):
    for text, ids, message in (
        ('train_00003\nvalid_1\n', TFDS_IDS, 'names 1 images that the training set does not hold: valid_1$'),
        ('3 120 121', TFDS_IDS, 'names 2 positions that the training set does not hold: 120, 121$'),
        ('3 4', DIGITS_IDS, 'names 1 positions .*: 4$'),
        ('3 7', FILE_IDS, r"ids of these images are no positions \('labeled/a b/1.png' is one\)"),
        ('3 7 3', TFDS_IDS, 'names an image twice'),
        (' \n', TFDS_IDS, 'is empty'),
    ):
        with pytest.raises(UserError, match=message) as caught:
            read(tmp_path, text, ids)
        assert str(caught.value).startswith(f'data.split_file={tmp_path}')
    with pytest.raises(UserError, match='No such file'):
        read_split_file(str(tmp_path / 'no.txt'), TFDS_IDS)
    (tmp_path / 'split.txt').write_bytes(b'\xff\xfe')
    with pytest.raises(UserError, match='cannot be read'):
        read_split_file(str(tmp_path / 'split.txt'), TFDS_IDS)
