import numpy as np
import pytest

from metasemi_jax.data.splits import class_balanced_split, split_positions, split_sha256, split_text
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
