import numpy as np
import pytest
import torch

from diffusionsat import ConfigError
from diffusionsat.evaluation.probes import fit_classifier


def clusters(count=200, seed=0):
    rng = np.random.default_rng(seed)
    labels = rng.choice(["a", "b", "c"], count)
    centres = {"a": (0, 0), "b": (2, 0), "c": (0, 200)}  # the second feature is on another scale
    points = np.array([centres[x] for x in labels]) + rng.normal(0, (0.7, 70), (count, 2))
    return torch.from_numpy(points).float(), labels


def test_equals_a_second_library():
    linear_model = pytest.importorskip("sklearn.linear_model", reason="scikit-learn is not installed")
    features, labels = clusters()
    decay = 0.01
    ours = fit_classifier(features, labels, decay=decay)
    x = ((features.double() - ours.mean) / ours.scale).numpy()
    theirs = linear_model.LogisticRegression(C=1 / (decay * len(x)), tol=1e-8, max_iter=1000).fit(x, labels)
    np.testing.assert_allclose(ours.weight, theirs.coef_, atol=2e-3)
    biases = [bias - bias.mean() for bias in (ours.bias.numpy(), theirs.intercept_)]
    np.testing.assert_allclose(*biases, atol=2e-3)
    others, truth = clusters(seed=1)
    said = ours(others)
    np.testing.assert_array_equal(said, theirs.predict(((others.double() - ours.mean) / ours.scale).numpy()))
    assert (said == truth).mean() > 0.8


def test_a_feature_that_never_changes():
    features, labels = clusters()
    constant = torch.cat([features, torch.full((len(features), 1), 5.0)], 1)
    assert (fit_classifier(constant, labels)(constant) == fit_classifier(features, labels)(features)).all()


@pytest.mark.parametrize(
    ("labels", "decay", "message"),
    [
        (["a", "b"], 0.1, "2 labels for 3 rows"),
        (["a"] * 3, 0.1, "two classes"),
        (["a", "b", "a"], 0.0, "decay"),
    ],
)
def test_what_cannot_be_fitted(labels, decay, message):
    with pytest.raises(ConfigError, match=message):
        fit_classifier(torch.zeros(3, 2), np.array(labels), decay=decay)
