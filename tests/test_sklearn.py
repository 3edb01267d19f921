"""The scikit-learn classifier: its conventions, its arrays and labels, and that it trains as main.py does."""

import pickle

import jax
import numpy as np
import pytest
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import check_estimator, estimator_checks_generator

import metasemi_jax
from compilations import compilations
from configs import folder
from metasemi_jax.data.sources.registry import load_dataset
from metasemi_jax.data.splits import draw_split, split_positions
from metasemi_jax.fitting import fit as fitting
from metasemi_jax.fitting.examples import find_form
from metasemi_jax.sklearn import MetaSemiClassifier
from metasemi_jax.training.loop import train_and_evaluate
from metasemi_jax.training.time_budget import Costs
from metasemi_jax.training.trial import measure
from metasemi_jax.training.watch import Warned
from small_runs import read_state

TINY = {'total_steps': 4, 'batch_size': 4, 'random_state': 0}
NARROW = {'model.width': 2}


def tiny(**options):
    return MetaSemiClassifier(**TINY | {'settings': NARROW} | options)


@pytest.fixture(scope='module')
def digits():
    """Training images, labels of which 50 are known, test images and their labels."""
    data = load_dataset('digits')
    split = draw_split(data, num_labels=50, num_validation=0, seed=0)
    labeled, _ = split_positions(data.train_ids, split.labeled)
    y = np.full(len(data.train_labels), -1)
    y[labeled] = data.train_labels[labeled]
    return data.train_images, y, data.test_images, data.test_labels


@pytest.fixture(scope='module')
def blobs():
    """Features of two far classes, 60 of them, 12 labeled."""
    rng = np.random.default_rng(0)
    classes = np.arange(60) % 2
    features = rng.normal(size=(60, 3)) + 6 * classes[:, None]
    return features, np.where(np.arange(60) < 12, classes, -1), classes


def checked(unlabeled_label):
    settings = {'model.width': 16, 'model.depth': 1}
    return MetaSemiClassifier(
        total_steps=20, batch_size=16, unlabeled_label=unlabeled_label, settings=settings
    )


def test_scikit_learns_own_checks():
    statuses = [result['status'] for result in check_estimator(checked(None), on_skip=None)]
    assert statuses.count('passed') > 50
    assert 'xfail' not in statuses


def test_its_checks_of_labels_where_one_means_unlabeled():
    passed = []
    for classifier, check in estimator_checks_generator(checked(-1)):
        name = getattr(check, 'func', check).__name__
        if not name.startswith(('check_classifier', 'check_supervised')):
            continue
        # Its labels are -1 and 1.
        if name == 'check_classifiers_classes':
            with pytest.raises((ValueError, AssertionError)):
                check(classifier)
        else:
            check(classifier)
            passed.append(name)
    assert len(passed) >= 8


def test_it_trains_as_main_does_to_the_bit(digits, tmp_path):
    images, y, _, _ = digits
    config = folder.get_config()
    fields = {'data.name': 'digits', 'data.num_labels': 50, 'data.image_size': 0}
    fields |= {'total_steps': 4, 'batch_size': 4, 'ema_decay': 0.0, 'model.width': 2}
    config.update_from_flattened_dict(fields)
    train_and_evaluate(config, tmp_path / 'run')
    saved = read_state(tmp_path / 'run')
    classifier = tiny(settings=NARROW | {'ema_decay': 0.0})
    # Grey levels as scikit-learn has them.
    classifier.fit(np.round(images[..., 0] * (16 / 255)), y)
    for path, leaf in jax.tree_util.tree_leaves_with_path(classifier.variables_):
        name = jax.tree_util.keystr(path)
        np.testing.assert_array_equal(leaf, saved[name], err_msg=name)


def test_features_are_learned_and_the_rest_is_labeled(blobs):
    X, y, classes = blobs
    classifier = tiny(total_steps=30, batch_size=8, settings={'model.width': 8}).fit(X, y)
    np.testing.assert_array_equal(classifier.transduction_, classes)
    np.testing.assert_array_equal(classifier.predict(X), classes)
    assert classifier.score(X, classes) == 1.0
    # Samples without a label are left out of the score.
    assert classifier.score(X, np.where(np.arange(60) < 6, 1 - classes, y)) == 0.5
    with pytest.raises(ValueError, match='nothing to score'):
        classifier.score(X, np.full(60, -1))
    probs = classifier.predict_proba(X)
    assert probs.dtype == np.float64
    np.testing.assert_allclose(probs.sum(axis=1), 1)
    # However many samples there are, and whatever their neighbours.
    np.testing.assert_array_equal(classifier.predict_proba(X[7:8])[0], probs[7])
    assert classifier.n_features_in_ == 3
    assert classifier.config_['model']['name'] == 'mlp'


def test_labels_of_any_kind(blobs):
    X, y, classes = blobs
    names = np.array(['egg', 'spoon'])
    expected = tiny().fit(X, y).predict_proba(X)
    as_text = np.where(y < 0, '-1', names[y])
    as_objects = np.array([-1 if k < 0 else names[k] for k in y], object)
    as_other_mark = np.where(y < 0, '?', names[y])
    for labels, mark in ((as_text, -1), (as_objects, -1), (as_other_mark, '?')):
        classifier = tiny(unlabeled_label=mark).fit(X, labels)
        assert classifier.classes_.tolist() == ['egg', 'spoon']
        np.testing.assert_array_equal(classifier.predict_proba(X), expected)
        assert set(classifier.transduction_) <= {'egg', 'spoon'}
        np.testing.assert_array_equal(classifier.transduction_[:12], names[classes[:12]])
    numbers = tiny(unlabeled_label=None).fit(X, np.where(classes, 7.0, -1.0))
    assert numbers.classes_.tolist() == [-1.0, 7.0]


def test_unlabeled_samples_may_come_apart(blobs):
    X, y, _ = blobs
    together, apart = tiny().fit(X, y), tiny().fit(X[:12], y[:12], X_unlabeled=X[12:])
    np.testing.assert_array_equal(apart.transduction_, together.transduction_)
    jax.tree.map(np.testing.assert_array_equal, apart.variables_, together.variables_)
    with pytest.raises(ValueError, match='X has 2 features, but MetaSemiClassifier is expecting 3'):
        tiny().fit(X, y, X_unlabeled=X[:, :2])


def test_images_in_all_their_forms(digits):
    images, y, _, _ = (array[:90] for array in digits)
    y = np.where(np.arange(90) < 30, np.arange(90) % 3, -1)
    grey = images[..., 0]
    expected = tiny().fit(images, y).predict_proba(images)
    for X in (grey, grey.astype(np.int64), grey / 255, grey.astype(float) * 7 - 40):
        np.testing.assert_array_equal(tiny().fit(X, y).predict_proba(X), expected)
    classifier = tiny().fit(np.repeat(images, 3, axis=-1), y)
    assert classifier.n_features_in_ == 8 * 8 * 3
    with pytest.raises(ValueError, match=r'are of shape \[8, 8\], those of fit were of \[8, 8, 3\]'):
        classifier.predict(grey)


def test_large_images_are_resized():
    images = np.random.default_rng(0).integers(0, 256, (20, 60, 40, 1)).astype(np.uint8)
    classifier = tiny().fit(images, np.arange(20) % 2)
    assert classifier.config_['data']['image_size'] == 32
    assert classifier.predict(images).shape == (20,)


@pytest.mark.parametrize(
    ('X', 'expected'),
    [
        (np.array([[0, 255]], np.uint8), (0, 255)),
        (np.array([[0, 1]], np.uint8), (0, 255)),
        (np.array([[3, 200]]), (0, 255)),
        (np.array([[0, 16]]), (0, 16)),
        (np.array([[-5, 200]]), (-5, 200)),
        (np.array([[0.1, 0.9]]), (0, 1)),
        (np.array([[0.0, 16.0]]), (0, 16)),
        (np.array([[0.0, 0.1]]), (0, 0.1)),
        (np.array([[2.0, 2.0]]), (2, 3)),
    ],
)
def test_the_range_of_pixels(X, expected):
    form = find_form(X[None])
    assert (form.low, form.high) == expected


def test_what_lies_beyond_the_range_is_cut():
    form = find_form(np.array([[[0.0, 16.0]]]))
    assert form.convert(np.array([[[-3.0, 8.0]], [[32.0, 16.0]]]))[..., 0].tolist() == [
        [[0, 128]],
        [[255, 255]],
    ]


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        ({'method': 'metasem'}, 'method.name=metasem must be one of'),
        ({'model': 'vgg'}, "model.name 'vgg' is unknown"),
        ({'total_steps': 0}, 'total_steps=0 must be more than 0'),
        ({'time_budget': 'soon'}, 'time_budget=soon must be a time'),
        ({'settings': {'optimizer.rl': 1}}, r"settings\['optimizer.rl'\] is no field .* 'optimizer.lr'\?"),
        ({'settings': ['optimizer.lr']}, r"settings=\['optimizer.lr'\] must be a dict"),
        ({'settings': {'seed': 1}}, 'is the parameter random_state'),
        ({'settings': {'data.path': 'x'}}, 'means nothing for arrays'),
        ({'settings': {'method.radius': 1.0}}, "method.name=metasemi has no option 'radius'"),
        ({'method': 'mean_teacher', 'settings': {'ema_decay': 0.0}}, 'keeps none; add ema_decay=0.999'),
        ({'random_state': -1}, 'seed=-1 must be at least 0'),
    ],
)
def test_bad_parameters(blobs, options, message):
    X, y, _ = blobs
    classifier = tiny(**options)
    with pytest.raises(ValueError, match=message):
        classifier.fit(X, y)
    with pytest.raises(NotFittedError):
        classifier.predict(X)


@pytest.mark.parametrize(
    ('X', 'y', 'message'),
    [
        (np.zeros((4, 3)), [-1, -1, -1, -1], 'no sample is labeled: all 4 of y are unlabeled_label=-1'),
        (np.zeros((4, 3)), [2, -1, 2, -1], 'the labeled samples are of 1 class, 2'),
        (np.zeros((4, 3)), [0.5, 1.5, -1, -1], 'Unknown label type'),
        (np.zeros((4, 3)), np.array(['a', 1, -1, -1], object), 'mixes numbers and texts'),
        (np.zeros((4, 3, 9, 9)), [0, 1, 0, 1], r'looks like \[N, C, H, W\]'),
        (np.full((4, 5, 5), np.nan), [0, 1, 0, 1], 'contains NaN'),
        (np.zeros((4, 5, 5)), [0, 1, 0], 'inconsistent numbers of samples'),
        (np.zeros((4, 2, 2, 2, 2)), [0, 1, 0, 1], 'X must be features'),
        ([np.zeros((5, 5)), np.zeros((5, 4))], [0, 1], r'of shapes \[5, 4\] and \[5, 5\]; resize them'),
    ],
)
def test_bad_arrays(X, y, message):
    with pytest.raises(ValueError, match=message):
        tiny().fit(X, y)


def test_the_same_seed_gives_the_same_network_and_pickles(blobs):
    X, y, _ = blobs
    first = tiny().fit(X, y)
    expected = first.predict_proba(X)
    np.testing.assert_array_equal(clone(first).fit(X, y).predict_proba(X), expected)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(first)).predict_proba(X), expected)
    assert not np.array_equal(tiny(random_state=1).fit(X, y).predict_proba(X), expected)
    state = [tiny(random_state=np.random.RandomState(5)).fit(X, y).predict_proba(X) for _ in range(2)]
    np.testing.assert_array_equal(*state)


def test_in_a_pipeline_and_a_grid(blobs):
    X, y, _ = blobs
    pipeline = make_pipeline(StandardScaler(), tiny())
    name = 'metasemiclassifier'
    grid = {f'{name}__method': ['metasemi', 'supervised'], f'{name}__total_steps': np.array([2])}
    search = GridSearchCV(pipeline, grid, cv=2, error_score='raise').fit(X, y)
    assert search.best_params_[f'{name}__method'] in ('metasemi', 'supervised')
    assert search.predict(X).shape == (60,)


@pytest.mark.parametrize('of_images', [False, True])
def test_folds_of_other_sizes_do_not_compile_again(of_images, blobs, digits):
    X, y, _ = blobs
    if of_images:
        # Their means and deviations differ, too.
        X = digits[0][:60]
    tiny().fit(X[:50], y[:50]).predict(X)
    with compilations() as count:
        tiny(random_state=1).fit(X[1:50], y[1:50]).predict(X)
        again = len(count)
        tiny(random_state=1, total_steps=5).fit(X[:49], y[:49])
    # The key of another seed is a program of its own, as small as can be. The probe sees 11 labels, not 12.
    assert again <= 3, count
    assert len(count) > again, 'the listener hears nothing'


def test_images_turned_on_their_side_take_a_step_of_their_own(blobs):
    """Both kinds have as many pixels and the same settings."""
    lying = np.random.default_rng(0).integers(0, 256, (60, 8, 12), dtype=np.uint8)
    upright = lying.transpose(0, 2, 1)
    alone = tiny().fit(upright, blobs[1]).predict_proba(upright)
    fitting._steps.cache_clear()
    tiny().fit(lying, blobs[1])
    np.testing.assert_array_equal(tiny().fit(upright, blobs[1]).predict_proba(upright), alone)


def test_nothing_is_printed_unless_asked_for(blobs, capsys):
    X, y, _ = blobs
    tiny().fit(X, y)
    assert capsys.readouterr() == ('', '')
    tiny(verbose=True).fit(X, y)
    out, err = capsys.readouterr()
    assert err == ''
    assert '12 labeled, 48 unlabeled samples of 2 classes; mlp' in out
    assert '--config' not in out
    assert 'step 4/4  loss ' in out


def test_a_time_budget_sets_the_steps(blobs, monkeypatch):
    X, y, _ = blobs

    def measured(*arguments):
        costs = measure(*arguments[:-1], 0.1)
        assert costs.step > 0
        assert costs.checkpoint == 0
        return Costs(step=1.0, evaluation=0.0, checkpoint=0.0, compilation=0.0)

    monkeypatch.setattr(fitting, 'measure', measured)
    classifier = tiny(total_steps=None, time_budget=60).fit(X, y)
    assert classifier.config_['time_budget'] == '60.000000s'
    assert 10 <= classifier.config_['total_steps'] < 60
    with pytest.raises(ValueError, match='give more time'):
        tiny(total_steps=None, time_budget='0.001s').fit(X, y)


def test_what_the_watch_finds_is_a_warning(blobs, monkeypatch):
    X, y, _ = blobs
    found = [Warned('collapse', 3, 'the predictions fall into few classes')]
    monkeypatch.setattr(fitting, 'new_warnings', lambda looks, known, **_: [] if known else found)
    with pytest.warns(ConvergenceWarning, match='at step 3: the predictions fall'):
        tiny().fit(X, y)


def test_a_loss_that_is_no_number_ends_the_fit(blobs):
    X, y, _ = blobs
    classifier = tiny(total_steps=40, settings=NARROW | {'optimizer.lr': 1e30})
    with pytest.raises(ValueError, match=r'the loss is (nan|inf) .*\. Lower optimizer\.lr'):
        classifier.fit(X, y)


def test_the_public_names():
    assert {*metasemi_jax.__all__} <= {*dir(metasemi_jax)}
    for name in metasemi_jax.__all__:
        assert getattr(metasemi_jax, name) is not None
    assert metasemi_jax.MetaSemiClassifier is MetaSemiClassifier
    with pytest.raises(AttributeError, match="has no attribute 'nope'"):
        _ = metasemi_jax.nope
