"""Chooses the images of the t-SNE plot and embeds their features (van der Maaten and Hinton, JMLR 2008)."""

import numpy as np

PERPLEXITY = 30
MANY = 5000  # images that are worth several threads


def sample_sizes(sizes: dict[str, int], num_points: int) -> dict[str, int]:
    """How many of each pool of `sizes` make `num_points` in all, or all there are if those are fewer.

    The labeled images, few and the ones to look at, may take a third; the others share the rest by size.
    """
    total = sum(sizes.values())
    if total <= num_points:
        return dict(sizes)
    labeled = sizes.get('labeled', 0)
    others = total - labeled
    labeled = min(labeled, max(num_points // 3, num_points - others))
    shares = {name: (num_points - labeled) * size / max(others, 1) for name, size in sizes.items()}
    kept = {name: labeled if name == 'labeled' else int(share) for name, share in shares.items()}
    # The largest split gets the remainder of the rounding.
    kept[max(shares, key=lambda name: sizes[name] - kept[name])] += num_points - sum(kept.values())
    return kept


def embed(features: np.ndarray, *, seed: int) -> np.ndarray:
    """t-SNE of float32 [N, D] in the plane: float32 [N, 2]; the same for the same seed on one machine."""
    from sklearn.manifold import TSNE
    from threadpoolctl import threadpool_limits

    count = len(features)
    if count < 2:
        return np.zeros((count, 2), np.float32)
    # A start from the principal components gives similar plots for all seeds.
    has_plane = min(features.shape) > 1 and np.ptp(features, axis=0).max() > 0
    perplexity = min(PERPLEXITY, max((count - 1) / 3, 0.5))
    tsne = TSNE(perplexity=perplexity, init='pca' if has_plane else 'random', random_state=seed)
    # Threads that wait for each other cost three times what they give; and their number would change the
    # picture.
    with threadpool_limits(1 if count <= MANY else None):
        return tsne.fit_transform(features)
