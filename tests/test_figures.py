"""What the pictures are made of: samples, embeddings, counts, logs, names, the page."""

import io
import itertools
import re

import numpy as np
import pytest
from PIL import Image

from metasemi_jax.visualize import fonts
from metasemi_jax.visualize.calibration import (
    Confidence,
    Reliability,
    Rescaled,
    draw_reliability,
    find_bins,
    fit_temperature,
    rescale,
)
from metasemi_jax.visualize.classes import ClassCounts, class_header, class_rows, draw_class_errors
from metasemi_jax.visualize.confusion import confusion_counts, draw_confusion
from metasemi_jax.visualize.curves import draw_curves, draw_pseudo_labels
from metasemi_jax.visualize.embedding import embed, sample_sizes
from metasemi_jax.visualize.html_report import Section, Table, html_report
from metasemi_jax.visualize.mistakes import Mistakes, draw_mistakes, most_confident_mistakes
from metasemi_jax.visualize.page import undrawable
from metasemi_jax.visualize.review import Review, choose_samples, draw_review
from metasemi_jax.visualize.sheet import Shown
from metasemi_jax.visualize.style import (
    COLOURS,
    DISTINCT,
    MARKERS,
    Picture,
    fitted_name,
    render,
    shown_name,
    wrapped_name,
)
from metasemi_jax.visualize.training_log import Series, read_training_log
from metasemi_jax.visualize.tsne import EmbeddedPool, TsneRow, draw_tsne
from page import Page


@pytest.mark.parametrize(
    ('sizes', 'num_points', 'expected'),
    [
        ({'labeled': 50, 'unlabeled': 1247, 'test': 500}, 2000, [50, 1247, 500]),
        ({'labeled': 50, 'unlabeled': 1200, 'test': 400}, 450, [50, 300, 100]),
        ({'labeled': 900, 'unlabeled': 300, 'test': 300}, 300, [100, 100, 100]),
        ({'labeled': 100, 'unlabeled': 5, 'test': 5}, 50, [40, 5, 5]),
        ({'labeled': 100}, 50, [50]),
        ({'labeled': 0, 'unlabeled': 7, 'test': 6}, 10, [0, 6, 4]),
    ],
)
def test_sample_sizes(sizes, num_points, expected):
    assert list(sample_sizes(sizes, num_points).values()) == expected


@pytest.mark.parametrize('num_points', [10, 11, 47, 333, 1796])
def test_samples_are_as_many_as_asked_for_and_none_is_more_than_there_are(num_points):
    for sizes in ({'labeled': 50, 'unlabeled': 1247, 'test': 500}, {'labeled': 1790, 'test': 7}):
        drawn = sample_sizes(sizes, num_points)
        assert sum(drawn.values()) == num_points
        assert all(0 <= drawn[name] <= sizes[name] for name in sizes)


def test_embedding_keeps_neighbours_and_repeats():
    rng = np.random.default_rng(0)
    centres = 30 * np.eye(3, 8)
    features = np.concatenate([c + rng.normal(size=(20, 8)) for c in centres]).astype(np.float32)
    points = embed(features, seed=0)
    np.testing.assert_array_equal(points, embed(features, seed=0))
    distances = np.linalg.norm(points[:, None] - points[None], axis=-1) + 1e9 * np.eye(60)
    np.testing.assert_array_equal(distances.argmin(axis=1) // 20, np.arange(60) // 20)


@pytest.mark.parametrize('shape', [(0, 4), (1, 4), (2, 4), (3, 4), (5, 1), (6, 4)])
def test_embedding_of_few_or_equal_images(shape):
    for features in (np.ones(shape, np.float32), np.arange(np.prod(shape), dtype=np.float32).reshape(shape)):
        points = embed(features, seed=0)
        assert points.shape == (shape[0], 2)
        assert np.isfinite(points).all()


def test_confusion_counts_by_hand():
    labels, classes = np.array([0, 0, 1, 2, -1, 2]), np.array([0, 1, 1, 0, 2, 2])
    expected = [[1, 1, 0], [0, 1, 0], [1, 0, 1]]
    np.testing.assert_array_equal(confusion_counts(labels, classes, 3), expected)


def test_confusion_caption_names_the_most_frequent():
    drawing = draw_confusion(np.array([[8, 2, 0], [3, 5, 0], [0, 0, 0]]), 'abc', name='run', split='test')
    assert '5 of 18 images are wrong (27.78%). Most often (true → predicted): b → a (3), a → b (2).' in (
        drawing.caption
    )
    written = {text.get_text() for text in drawing.figure.axes[0].texts}
    assert written == {'8', '2', '3', '5'}


@pytest.mark.parametrize('num_classes', [2, 100, 300])
def test_confusion_for_any_number_of_classes(num_classes):
    names = [f'class {i}' for i in range(num_classes)]
    drawing = draw_confusion(np.eye(num_classes, dtype=int), names, name='run', split='test')
    assert 'Most often' not in drawing.caption
    ticks = [label.get_text() for label in drawing.figure.axes[0].get_yticklabels()]
    assert ticks == (names if num_classes <= 100 else names[::12])


def test_mistakes_come_by_confidence_and_unknown_labels_are_none():
    labels, classes = np.array([0, 1, -1, 1, 0]), np.array([1, 1, 0, 0, 1])
    confidence = np.array([0.6, 0.9, 0.99, 0.8, 0.6], np.float32)
    np.testing.assert_array_equal(most_confident_mistakes(labels, classes, confidence), [3, 0, 4])


def test_mistakes_show_the_pixels_as_they_are():
    images = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 3), np.uint8)
    shown = Shown(images, np.array(['a.png', 'b.png']), [0, 1], [1, 0], np.array([0.9996, 0.5]))
    mistakes = Mistakes(shown, 7)
    drawing = draw_mistakes(mistakes, ['cat', '$d$'], name='run', split='test')
    axes = drawing.figure.axes[0]
    np.testing.assert_array_equal(axes.images[0].get_array(), images[0])
    assert axes.images[0].get_interpolation() == 'nearest'
    words = [text.get_text() for text in axes.texts]
    assert words[:4] == ['true: cat', 'net: \\$d\\$', '99.9%', 'a.png']
    assert drawing.caption.startswith('The 2 most confidently wrong of 7 wrongly classified test images')


def overlaps(axes):
    """Pairs of texts of a sheet that lie on each other."""
    boxes = [text.get_window_extent() for text in axes.texts]
    return [(a, b) for a, b in itertools.combinations(boxes, 2) if a.padded(-0.5).overlaps(b)]


@pytest.mark.parametrize('letters', [2, 12, 30, 80])
def test_words_of_any_length_keep_to_their_image(letters):
    count = 10
    images = np.zeros((count, 8, 8, 1), np.uint8)
    classes = ['W' * letters, 'i' * letters]
    ids = np.array([f'test/{"m" * letters}/{i:04d}.png' for i in range(count)])
    mistakes = Mistakes(Shown(images, ids, [0] * count, [1] * count, np.full(count, 0.9)), count)
    axes = draw_mistakes(mistakes, classes, name='run', split='test').figure.axes[0]
    assert not overlaps(axes)
    # Both ends stay, and tell one from the other.
    assert axes.texts[3].get_text().replace('\n', '').endswith('0.png')


def test_samples_to_review_by_hand():
    classes = np.array([1, 0, 1, 1, 1, 0])
    confidence = np.array([0.5, 0.9, 0.7, 0.6, 0.8, 0.4])
    first, second = choose_samples(classes, confidence)
    assert (first.label, first.count, first.mean) == (0, 2, 0.65)
    assert (first.most.tolist(), first.least.tolist()) == ([1], [5])
    assert (second.most.tolist(), second.least.tolist()) == ([4, 2], [0, 3])
    assert second.mean == pytest.approx(0.65)


def test_of_too_many_classes_those_most_in_doubt_are_reviewed():
    classes = np.arange(600) % 60
    samples = choose_samples(classes, 1 - classes / 100)
    assert [sample.label for sample in samples] == list(range(59, 9, -1))
    assert all(len(sample.most) == 5 == len(sample.least) for sample in samples)
    assert not any({*sample.most} & {*sample.least} for sample in samples)


@pytest.mark.parametrize('known', [False, True])
def test_sheets_of_unlabeled_images(known):
    samples = choose_samples(np.arange(24) % 12, np.linspace(0.3, 0.9, 24))
    images = np.arange(24, dtype=np.uint8)[:, None, None, None] * np.ones((1, 4, 4, 3), np.uint8)
    labels = np.zeros(24, int) if known else np.full(24, -1)
    ids = np.array([f'{i}.png' for i in range(24)])
    shown = Shown(images, ids, labels, np.zeros(24, int), np.linspace(0.3, 0.9, 24))
    sheets = draw_review(Review(samples, shown, 24, 30), [f'class{k}' for k in range(13)], name='run')
    assert [sheet.title[-6:] for sheet in sheets] == ['1 of 2', '2 of 2']
    axes = sheets[1].figure.axes[0]
    assert [image.get_array()[0, 0, 0] for image in axes.images] == [22, 10, 23, 11]
    words = [text.get_text() for text in axes.texts]
    assert words[2:4] == ['class10', '2 images\nmean 73.0%'] or words[2] == 'class10'
    assert ('is class0' in ' '.join(words)) == known == bool(axes.patches)
    assert not overlaps(axes)
    for sentence in ('among 24 of the 30 unlabeled', '1 of the 13 classes were given to none'):
        assert sentence in sheets[0].caption
    assert ('orange frame' in sheets[0].caption) == known


def test_bins_of_confidence_by_hand():
    bins = find_bins(Confidence(np.array([0.92, 0.98, 0.5, 1.0]), np.array([True, False, True, True])))
    assert bins.counts.tolist() == [0] * 7 + [1] + [0] * 5 + [1, 2]
    assert bins.accuracy[[7, 13, 14]].tolist() == [1, 1, 0.5]
    # (0.5 + 0.08 + 2 * 0.49) / 4
    assert bins.error == pytest.approx(0.39)


@pytest.mark.parametrize('temperature', [0.4, 1.0, 3.0])
def test_the_temperature_that_was_put_in_is_found(temperature):
    rng = np.random.default_rng(0)
    right = rng.dirichlet(np.full(4, 0.4), 4000)
    labels = np.array([rng.choice(4, p=row) for row in right])
    # Predictions that are off by a temperature: dividing their logits by it mends them.
    probs = rescale(right, 1 / temperature)
    assert fit_temperature(probs, labels) == pytest.approx(temperature, rel=0.1)
    np.testing.assert_allclose(rescale(probs, temperature), right, atol=1e-6)
    assert (rescale(probs, temperature).argmax(axis=-1) == probs.argmax(axis=-1)).all()
    assert fit_temperature(probs[:19], labels[:19]) is None


def test_reliability_says_what_it_is_fitted_on():
    confidence = Confidence(np.array([0.7, 0.7]), np.array([True, True]))
    rescaled = Rescaled(0.5, 40, Confidence(np.array([0.9, 0.9]), np.array([True, True])))
    caption = draw_reliability(Reliability(confidence, rescaled, ''), name='run', split='test').caption
    assert 'is 70.0%, 100.0% are correct: the network is underconfident by 30.0 points' in caption
    assert 'temperature 0.50, fitted on the 40 validation images' in caption
    assert 'a mean of 90.0% and an error of 10.0 points' in caption
    caption = draw_reliability(
        Reliability(confidence, None, 'No temperature.'), name='run', split='test'
    ).caption
    assert caption.endswith('No temperature.')


def test_counts_of_classes_by_hand():
    counts = np.array([[3, 1, 0], [0, 2, 0], [0, 0, 0]])
    classes = ClassCounts(np.array([5, 1200, 0]), np.array([7, 0, 1]), counts)
    assert class_header(classes, 'test') == (
        '#', 'class', 'test error', 'wrong', 'labeled', 'unlabeled, predicted'
    )  # fmt: skip
    assert class_rows(classes, 'abc') == [
        ('0', 'a', '25.0%', '1 of 4', '5', '7'),
        ('1', 'b', '0.0%', '0 of 2', '1,200', '0'),
        ('2', 'c', '–', '0 of 0', '0', '1'),
    ]
    assert class_rows(ClassCounts(np.array([5]), None, None), 'a') == [('0', 'a', '5')]
    drawing = draw_class_errors(counts, classes.labeled, ['a', '$b$', 'c'], name='run', split='test')
    axes = drawing.figure.axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ['a', '\\$b\\$']
    assert [bar.get_width() for bar in axes.patches] == [25, 0]
    assert '1 classes have no test image' in drawing.caption


class FakeFont:
    """Has the characters of `text`."""

    def __init__(self, text):
        self.text = text

    def get_char_index(self, code):
        return int(chr(code) in self.text)


def test_the_fewest_fonts_that_have_the_characters(monkeypatch):
    installed = [('A', FakeFont('猫')), ('B', FakeFont('猫犬')), ('C', FakeFont('한'))]
    monkeypatch.setattr(fonts, '_installed', lambda: installed)
    fonts._fonts_for.cache_clear()
    assert fonts.fonts_for('cat é →') == ((), frozenset())
    assert fonts.fonts_for('猫 and 犬') == (('B',), frozenset())
    assert fonts.fonts_for('한犬 न') == (('B', 'C'), frozenset('न'))
    assert fonts.drawable_classes(['cat', '猫', 'न']) == ['cat', '猫', 'class 2']
    assert fonts.legible('न.png') == '\ufffd.png'
    line = undrawable(['cat', '猫', 'न'])
    assert 'no font here has न: pictures show the numbers of 1 classes' in line
    assert undrawable(['cat', '猫']) == ''
    fonts._fonts_for.cache_clear()


def test_names_in_any_script_are_drawn_or_numbered():
    """Warnings are errors: Matplotlib would warn of each box."""
    names = fonts.drawable_classes(['猫', 'ねずみ', '한국어', 'नौ', 'cat'])
    assert names[-1] == 'cat'
    with fonts.drawing_fonts(names):
        picture = render(draw_confusion(np.eye(5, dtype=int), names, name='猫', split='test'))
    assert len(picture.files) == 2


def test_damaged_lines_of_the_log_are_skipped(tmp_path):
    path = tmp_path / 'metrics.jsonl'
    assert read_training_log(path) == ({}, 0)
    lines = [
        b'{"step": 4, "train/loss": 2.0, "test/error": 10}',
        b'{"step": 2, "train/loss": 3.0, "note": "text"}',
        b'{"step": 6, "train/loss": NaN}',
        b'\xff\xfe',
        b'[1]',
        b'{"train/loss": 1}',
        b'{"step": "8", "train/loss": 1}',
        b'{"step": 4, "train/loss": 2.5}',
        b'{"step": 10, "train/lo',
    ]
    path.write_bytes(b'\n'.join(lines))
    log = read_training_log(path)
    assert log.series == {'train/loss': Series([2, 4], [3.0, 2.5]), 'test/error': Series([4], [10])}
    assert log.num_damaged == 5


def accuracies(before, after):
    steps = list(range(1, len(before) + 1))
    return {
        'train/pseudo_label_accuracy_before': Series(steps, before),
        'train/pseudo_label_accuracy_after': Series(steps, after),
    }


def test_the_gain_of_the_meta_update():
    drawing = draw_pseudo_labels(accuracies([0.5, 0.75, 0.5], [0.625, 0.5, 0.75]), 'run')
    accuracy, gain = drawing.figure.axes
    np.testing.assert_array_equal(accuracy.lines[1].get_ydata(), [62.5, 50, 75])
    np.testing.assert_array_equal(gain.lines[0].get_ydata(), [12.5, -25, 25])
    assert 'raised the accuracy at 2 and lowered it at 1 of 3 points, by +4.17 percentage' in drawing.caption


def test_a_method_that_keeps_some_of_its_targets():
    series = {
        'train/pseudo_label_accuracy_before': Series([1, 2], [0.5, 0.75]),
        'train/pseudo_label_accuracy_kept': Series([2], [1.0]),
        'train/pseudo_label_kept': Series([1, 2], [0.0, 0.25]),
        'train/pseudo_label_weight': Series([1, 2], [0.0, 0.25]),
    }
    drawing = draw_pseudo_labels(series, 'run')
    accuracy, share = drawing.figure.axes
    assert [text.get_text() for text in accuracy.get_legend().get_texts()] == ['all', 'of those kept']
    assert len(share.lines) == 1
    np.testing.assert_array_equal(share.lines[0].get_ydata(), [0, 25])
    assert 'At the end 25% of them were kept' in drawing.caption
    assert 'makes no meta update' in drawing.caption
    soft = series | {'train/pseudo_label_weight': Series([1, 2], [0.1, 0.2])}
    assert len(draw_pseudo_labels(soft, 'run').figure.axes[1].lines) == 2


def test_without_labels_or_pseudo_labels():
    entropy = {f'train/pseudo_label_entropy_{when}': Series([1], [2.0]) for when in ('before', 'after')}
    drawing = draw_pseudo_labels(entropy, 'run')
    assert len(drawing.figure.axes) == 1
    assert 'accuracy is not known: the unlabeled images have no labels' in drawing.caption
    assert draw_pseudo_labels({'train/loss': Series([1], [2.0])}, 'run') is None
    assert draw_curves({}, 'run') is None


def test_curves_lie_within_their_axes():
    series = {
        'train/loss': Series([2, 4], [2.0, 1.0]),
        'test/error': Series([4], [90.0]),
        'validation/error': Series([4], [100.0]),
    }
    drawing = draw_curves(series, 'run')
    losses, errors = drawing.figure.axes
    assert losses.get_yscale() == 'linear'
    assert errors.get_ylim()[0] == 0
    assert errors.get_ylim()[1] > 100
    assert [text.get_text() for text in errors.get_legend().get_texts()] == ['test', 'validation']
    losses = draw_curves({'train/loss': Series([2, 4], [2.0, 0.01])}, 'run').figure.axes[0]
    assert losses.get_yscale() == 'log'


def test_classes_differ_in_colour_and_shape():
    looks = {(COLOURS[k % len(COLOURS)], MARKERS[k % len(MARKERS)]) for k in range(DISTINCT)}
    assert len(looks) == DISTINCT >= 100


def pool(name, classes, *, known=True):
    classes = np.array(classes)
    points = np.random.default_rng(0).normal(size=(len(classes), 2))
    return EmbeddedPool(name, 2 * len(classes), points, classes, np.full(len(classes), known))


def test_tsne_panels_share_their_limits_and_say_what_they_show():
    pools = [pool('labeled', [0, 1]), pool('unlabeled', [1, 1, 0], known=False), pool('test', [0, 2])]
    drawing = draw_tsne([TsneRow('run', pools)], ['_a', '$b$', 'c'], seed=3)
    *panels, legend = drawing.figure.axes
    assert [panel.get_title() for panel in panels] == [
        'labeled (2 of 4)',
        'unlabeled (3 of 6)\npredicted class',
        'test (2 of 4)',
        'all together (7 of 14)\npredicted class where not known',
    ]
    assert len({(panel.get_xlim(), panel.get_ylim()) for panel in panels}) == 1
    names = [text.get_text() for text in legend.get_legend().get_texts()]
    assert names == ['labeled image', '_a', '\\$b\\$', 'c']
    assert 'the predicted one is shown' in drawing.caption
    assert '(seed 3)' in drawing.caption


def test_rows_of_runs_with_other_pools_and_many_classes():
    rows = [
        TsneRow('one', [pool('labeled', range(100)), pool('unlabeled', range(60))]),
        TsneRow('two', [pool('labeled', range(30)), pool('test', [0])]),
    ]
    picture = render(draw_tsne(rows, [f'class {i}' for i in range(100)], seed=0))
    image = np.asarray(Image.open(io.BytesIO(picture.files['png'])).convert('L'))
    # Nothing is cut off: the margin is white all round, and the caption makes the file higher.
    assert min(edge.min() for edge in (image[0], image[-1], image[:, 0], image[:, -1])) == 255
    assert image.shape[0] > Image.open(io.BytesIO(picture.bare)).height
    assert picture.files['pdf'].startswith(b'%PDF')
    assert 'repeat' not in picture.caption
    assert 'repeat' in draw_tsne(rows, ['x'] * 1000, seed=0).caption


def test_names_for_a_figure():
    assert shown_name('cat') == 'cat'
    assert shown_name('two\n lines $') == r'two lines \$'
    assert shown_name('bad\udcff') == 'bad\ufffd'
    long = shown_name('unlabeled/' + 'x' * 50 + '/0123.png', 20)
    assert len(long) == 20
    assert long.startswith('unlabeled')
    assert long.endswith('0123.png')
    assert [fitted_name(name, 1, 10) for name in ('', '7', 'no', '$')] == ['', '7', 'no', r'\$']
    assert 5 < len(fitted_name('x' * 80, 1, 10)) < 20
    assert wrapped_name('x' * 20, 1, 10, lines=2).count('\n') == 1


def test_the_page_escapes_and_refers_to_nothing_outside():
    odd = '<b>&"\'</script>{x}%s'
    picture = Picture(odd, odd, b'\x89PNG' + bytes(20), {})
    table = Table(odd, [odd], [[odd]])
    section = Section(odd, [odd], [table], [picture], [(odd, odd)])
    text = html_report(odd + '\udcff', [section])
    page = Page(text)
    assert page.text.count(odd) == 9
    assert not {'b', 'script'} & {*page.tags}
    assert page.references
    assert all(reference.startswith('data:') for reference in page.references)
    assert not re.search(r'url\(|@import|https?:', text)
    text.encode()
