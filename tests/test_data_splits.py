import numpy as np
import pytest

from metasemi_jax.data.dataset import Dataset
from metasemi_jax.data.splits import (
    class_balanced_split,
    draw_split,
    split_positions,
    split_sha256,
    split_text,
)
from metasemi_jax.errors import UserError

LABELS = np.random.default_rng(0).choice(4, 200, p=[0.1, 0.2, 0.3, 0.4])
IDS = np.array([f'image{i:03d}' for i in range(200)])


def split(labels=LABELS, ids=IDS, num_labels=20, seed=0):
    return class_balanced_split(labels, ids, num_labels, num_classes=4, seed=seed)


def test_the_same_number_of_every_class():
    chosen = split()
    assert len(set(chosen)) == 20
    assert chosen == sorted(chosen)
    assert np.bincount(LABELS[np.isin(IDS, chosen)]).tolist() == [5, 5, 5, 5]
    assert all(type(name) is str for name in chosen)


def test_the_stored_order_does_not_matter():
    order = np.random.default_rng(1).permutation(200)
    assert split(LABELS[order], IDS[order]) == split()


def test_the_seed_decides():
    assert split(seed=1) != split(seed=0)
    assert split(seed=1) == split(seed=1)


def test_a_class_can_be_used_up():
    smallest = int(np.bincount(LABELS).min())
    chosen = split(num_labels=4 * smallest)
    rarest = np.bincount(LABELS).argmin()
    assert set(IDS[rarest == LABELS]) <= set(chosen)


def test_every_image_is_drawn_equally_often():
    # 300 draws of 5 of n images: each is drawn 1500/n times, give or take five standard deviations.
    drawn = np.concatenate([split(seed=seed) for seed in range(300)])
    names, times = np.unique(drawn, return_counts=True)
    assert len(names) == 200
    for label in range(4):
        members = IDS[label == LABELS]
        share = 5 / len(members)
        found = times[np.isin(names, members)]
        assert np.all(np.abs(found - 300 * share) < 5 * np.sqrt(300 * share * (1 - share)))


def test_more_labels_than_a_class_holds():
    smallest = int(np.bincount(LABELS).min())
    with pytest.raises(UserError, match=f'use at most {4 * smallest}$'):
        split(num_labels=4 * smallest + 4)


@pytest.mark.parametrize(('num_labels', 'advice'), [(18, 'use 16 or 20$'), (3, 'use 4$')])
def test_labels_that_the_classes_cannot_share(num_labels, advice):
    with pytest.raises(UserError, match=advice):
        split(num_labels=num_labels)


def test_positions_lead_back_to_the_ids_in_any_order():
    chosen = split()
    order = np.random.default_rng(2).permutation(200)
    for ids in (IDS, IDS[order]):
        labeled, unlabeled = split_positions(ids, chosen)
        assert ids[labeled].tolist() == chosen
        assert ids[unlabeled].tolist() == [name for name in IDS if name not in chosen]


def test_positions_refuse_a_split_of_other_images():
    with pytest.raises(UserError, match=r"2 images .* the first 'x1'"):
        split_positions(IDS, ['x1', 'image000', 'x2'])
    with pytest.raises(UserError, match='twice'):
        split_positions(IDS, ['image000', 'image000'])


def test_text_and_sum():
    assert split_text(['a', 'b']) == 'a\nb\n'
    # printf 'a\nb\n' | sha256sum
    assert split_sha256(['a', 'b']) == '911169ddaaf146aff539f58c26c489af3b892dff0fe283c1c264c65ae5aa59a2'
    assert split_sha256(['a', 'b']) != split_sha256(['ab'])


def small_dataset(counts=(6, 4, 10), unlabeled=5, test=True):
    labels = np.repeat([*range(len(counts)), -1], [*counts, unlabeled]).astype(np.int32)
    images = np.zeros((len(labels), 2, 2, 1), np.uint8)
    ids = np.array([f'{i:02d}' for i in range(len(labels))])
    test = (images[:3], labels[:3]) if test else (None, None)
    return Dataset(images, labels, ids, *test, ('a', 'b', 'c'))


def drawn(dataset, num_labels=0, num_validation=0, seed=0, **options):
    return draw_split(dataset, num_labels=num_labels, num_validation=num_validation, seed=seed, **options)


def counts(dataset, ids):
    return np.bincount(dataset.train_labels[np.isin(dataset.train_ids, ids)], minlength=3).tolist()


def test_every_label_that_is_given():
    data = small_dataset()
    assert drawn(data) == (data.train_ids[:20].tolist(), [])
    assert counts(data, drawn(data, num_labels=6).labeled) == [2, 2, 2]


@pytest.mark.parametrize(
    ('num_labels', 'num_validation', 'held_out'),
    [(12, 3, [1, 1, 1]), (12, 9, [3, 3, 3]), (0, 10, [3, 2, 5]), (0, 4, [1, 1, 2]), (0, 17, [5, 3, 9])],
)
def test_validation_is_of_each_class_in_proportion(num_labels, num_validation, held_out):
    data = small_dataset()
    split = drawn(data, num_labels, num_validation)
    assert counts(data, split.validation) == held_out
    whole = drawn(data, num_labels).labeled
    assert sorted(split.labeled + split.validation) == whole
    assert not {*split.labeled} & {*split.validation}
    labeled, unlabeled = split_positions(data.train_ids, split.labeled, split.validation)
    held = np.flatnonzero(np.isin(data.train_ids, split.validation))
    assert sorted([*labeled, *unlabeled, *held]) == list(range(25))


def test_validation_depends_on_seed_and_ids_alone():
    data = small_dataset()
    split = drawn(data, num_validation=6)
    assert drawn(data, num_validation=6, seed=1).validation != split.validation
    order = np.random.default_rng(0).permutation(25)
    shuffled = data._replace(train_labels=data.train_labels[order], train_ids=data.train_ids[order])
    assert drawn(shuffled, num_validation=6) == split


def test_a_fifth_is_held_out_where_there_is_no_test_set():
    data = small_dataset(test=False)
    assert len(drawn(data).validation) == 4
    assert len(drawn(data, num_validation=7).validation) == 7
    assert len(drawn(data, num_labels=6).validation) == 1
    with_validation = data._replace(val_images=data.train_images, val_labels=data.train_labels)
    assert drawn(with_validation).validation == []
    with pytest.raises(UserError, match='come with a validation set; use 0'):
        drawn(with_validation, num_validation=3)


def test_more_than_the_labels_can_spare():
    with pytest.raises(UserError, match=r'use at most data.num_validation=17, or give test images'):
        drawn(small_dataset(), num_validation=18)
    with pytest.raises(UserError, match='1 validation images cannot be held out of 3 labeled ones'):
        drawn(small_dataset((1, 1, 1), test=False))


def test_a_named_split_needs_labels():
    data = small_dataset()
    assert drawn(data, labeled_ids=['10', '06', '01']).labeled == ['01', '06', '10']
    with pytest.raises(UserError, match=r"1 images without a label, the first '22'; label them"):
        drawn(data, labeled_ids=['01', '22'])


def test_a_named_split_needs_every_class():
    data = small_dataset()
    with pytest.raises(UserError, match=r'names no image of 2 of 3 classes \(b, c\); name one of each'):
        drawn(data, labeled_ids=['01', '02'])
    # A class that no training image is known to be of cannot be asked for.
    assert drawn(data._replace(class_names=('a', 'b', 'c', 'd')), labeled_ids=['01', '06', '10']).labeled


def test_more_labels_than_there_are_beside_unlabeled_images():
    """The mistake that everybody makes once."""
    for num_labels, message in ((24, r'8 labels of class 0, which has 6 images with one; use at most 12$'),):
        with pytest.raises(UserError, match=message):
            drawn(small_dataset(unlabeled=40), num_labels=num_labels)
