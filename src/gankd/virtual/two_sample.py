"""Two-sample test by a classifier: can a small network tell samples from a teacher's outputs?

Lopez-Paz, Oquab. Revisiting classifier two-sample tests. ICLR 2017.
"""

import warnings

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from gankd.seeds import rng
from gankd.virtual.groups import Groups

ROWS = 4000
"""Outputs, and as many samples, that the classifier sees at most."""


def two_sample_test(groups: Groups, p: Tensor, q: Tensor, labels: Tensor, seed: int) -> tuple[float, float]:
    """Held-out AUC of telling outputs from samples given the label, and of telling outputs from outputs.

    The network reads square roots of probabilities, less their mean over both sides for the label's group, and the
    label.

    Args:
        groups: of the N rows.
        p: (N, K) outputs.
        q: (N, K) samples.
        labels: (N,).
        seed: of the rows that are compared and of the network.
    """
    a, b, weight = groups.split(0, seed)
    there = weight > 0
    a, b = a[there], b[there]
    chosen = torch.randperm(len(a), generator=rng(seed, "gates", "c2st"))[:ROWS]
    a, b = a[chosen], b[chosen]
    return _auc(groups, p, q, labels, a, b, seed), _auc(groups, p, p, labels, a, b, seed)


def _auc(groups: Groups, p: Tensor, q: Tensor, labels: Tensor, a: Tensor, b: Tensor, seed: int) -> float:
    """AUC of telling rows `a` (M,) of p from rows `b` (M,) of q, the mean of two held-out halves."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.metrics import roc_auc_score
    from sklearn.neural_network import MLPClassifier

    # --- inputs (2M, K + G [+ 1])
    rows = torch.cat([a, b])
    group = groups.groups[rows]
    roots = (p.shape[1] * torch.cat([p[a], q[b]])).sqrt()
    # A mean over one side only would give that side away where a group has few rows.
    total = roots.new_zeros(groups.num_groups, roots.shape[1]).index_add_(0, group, roots)
    mean = total / group.bincount(minlength=groups.num_groups).clamp_min(1)[:, None]
    label = F.one_hot(group, groups.num_groups).double()
    if labels.is_floating_point():
        label = torch.cat([label, labels[rows, None]], 1)
    x = torch.cat([roots - mean[group], label], 1).float().numpy()
    side = np.repeat([0, 1], [len(a), len(b)])

    # --- each half is scored by a network trained on the other
    fold = np.concatenate([np.arange(len(a)) % 2, np.arange(len(b)) % 2])
    found = []
    for held_out in (0, 1):
        network = MLPClassifier((64,), max_iter=40, learning_rate_init=3e-3, alpha=1e-3, random_state=seed)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # it need not converge to tell them apart
            network.fit(x[fold != held_out], side[fold != held_out])
        score = network.predict_proba(x[fold == held_out])[:, 1]
        found.append(roc_auc_score(side[fold == held_out], score))
    return float(np.mean(found))
