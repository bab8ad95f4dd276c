"""Dense tokens in fewer bytes and back, and what that loses: against float64 and scikit-learn."""

import numpy as np
import pytest
from sklearn.decomposition import PCA

from zsseg.stages.cache.format.codec import decode, encode
from zsseg.stages.precompute.make.pca_basis import fit_basis
from zsseg.stages.precompute.make.token_loss import compare, spread


@pytest.mark.parametrize("magnitude", [1e-30, 1e-6, 1.0, 1e4, 1e30])
def test_int8_against_a_float64_reference(magnitude: float) -> None:
    rng = np.random.default_rng(0)
    token_NDhw = (magnitude * rng.normal(size=(3, 16, 4, 5))).astype(np.float32)
    token_NDhw[0, :, 1, 2] = 0
    token_NDhw[1, 3, 0, 0] *= 50  # one number that is larger than all others
    arrays = encode("int8", token_NDhw, {})
    assert {name: values.dtype for name, values in arrays.items()} == {
        "dense": np.int8,
        "dense_scale": np.float32,
    }
    exact_NDhw = token_NDhw.astype(np.float64)
    scale_N1hw = np.abs(exact_NDhw).max(1, keepdims=True) / 127
    level_NDhw = np.rint(exact_NDhw / np.where(scale_N1hw > 0, scale_N1hw, 1))
    assert np.abs(arrays["dense"] - level_NDhw).max() <= 1  # a half may round either way
    assert (arrays["dense"] != level_NDhw).mean() < 0.01
    back_NDhw = decode({"format": "int8"}, arrays.__getitem__)
    assert back_NDhw.dtype == np.float32
    assert (np.abs(back_NDhw - exact_NDhw) <= scale_N1hw * 0.5001).all()
    assert not back_NDhw[0, :, 1, 2].any()
    np.testing.assert_array_equal(
        decode({"format": "int8"}, {k: v[1] for k, v in arrays.items()}.__getitem__), back_NDhw[1]
    )
    negative = encode("int8", -token_NDhw, {})
    np.testing.assert_array_equal(negative["dense"], -arrays["dense"])


def test_int8_at_the_ends_of_float32() -> None:
    for largest in (3e38, 1e-38, 1e-40, 2e-43, 1e-45, 0.0):
        token_NDhw = np.float32(largest) * np.array([1, -1, 0.5], np.float32).reshape(1, 3, 1, 1)
        arrays = encode("int8", token_NDhw, {})
        back_NDhw = decode({"format": "int8"}, arrays.__getitem__)
        assert np.isfinite(back_NDhw).all()
        assert np.abs(back_NDhw - token_NDhw).max() <= max(1.5e-43, largest / 200)


@pytest.mark.parametrize("magnitude", [1e-3, 1.0, 1e3])
def test_pca_against_scikit_learn_and_numpy(magnitude: float) -> None:
    rng = np.random.default_rng(0)
    mixing_DD = rng.normal(size=(12, 12)) * 0.6 ** np.arange(12)  # variances of their own
    token_NDhw = np.einsum("de,nehw->ndhw", mixing_DD, rng.normal(size=(5, 12, 6, 7)))
    token_NDhw = (magnitude * (token_NDhw + rng.normal(size=12)[:, None, None])).astype(np.float32)
    basis_dD, mean_D = fit_basis(token_NDhw, 4)
    token_TD = token_NDhw.astype(np.float64).transpose(0, 2, 3, 1).reshape(-1, 12)
    reference = PCA(4, svd_solver="full").fit(token_TD)
    np.testing.assert_allclose(mean_D, reference.mean_, atol=1e-6 * magnitude)
    np.testing.assert_allclose(np.abs((basis_dD * reference.components_).sum(1)), 1, atol=1e-6)
    np.testing.assert_allclose(basis_dD @ basis_dD.T, np.eye(4), atol=1e-6)
    assert (np.take_along_axis(basis_dD, np.abs(basis_dD).argmax(1)[:, None], 1) > 0).all()
    _, _, right_DD = np.linalg.svd(token_TD - token_TD.mean(0), full_matrices=False)
    best_TD = (token_TD - token_TD.mean(0)) @ right_DD[:4].T @ right_DD[:4] + token_TD.mean(0)
    basis = {"pca_basis": basis_dD, "pca_mean": mean_D}
    arrays = encode("pca:4", token_NDhw, basis)
    assert arrays["dense"].shape == (5, 4, 6, 7)
    assert arrays["dense"].dtype == np.float16
    back_NDhw = decode({"format": "pca:4"}, (arrays | basis).__getitem__)
    assert back_NDhw.dtype == np.float32
    best_NDhw = best_TD.reshape(5, 6, 7, 12).transpose(0, 3, 1, 2)
    np.testing.assert_allclose(back_NDhw, best_NDhw, atol=5e-3 * magnitude)
    one_Dhw = decode({"format": "pca:4"}, ({"dense": arrays["dense"][2]} | basis).__getitem__)
    np.testing.assert_allclose(one_Dhw, back_NDhw[2], atol=1e-5 * magnitude)


def test_pca_beyond_half_precision_is_infinite_and_so_refused_when_written() -> None:
    basis = {"pca_basis": np.eye(2, 3, dtype=np.float32), "pca_mean": np.zeros(3, np.float32)}
    arrays = encode("pca:2", np.full((1, 3, 1, 1), 1e6, np.float32), basis)
    assert np.isinf(arrays["dense"]).all()


def test_a_comparison_of_tokens() -> None:
    text_CD = np.array([[1, 0], [0, 1]], np.float32)
    original_Dhw = np.array([[3, 0, 1e-7, 0, 2], [0, 5, 0, 0, 1.9]], np.float32)[:, None]
    stored_Dhw = np.array([[1, 1, 1e-7, 0, 1.9], [0, 1, 0, 0, 2]], np.float16)[:, None]
    cosine_T, same = compare(stored_Dhw, original_Dhw, text_CD)
    last = (2 * 1.9 + 1.9 * 2) / (4 + 1.9**2)
    np.testing.assert_allclose(cosine_T, [1, np.sqrt(0.5), 1, 1, last], atol=1e-3)
    assert same == 3  # the second is a tie in its stored form, the last has changed sides
    assert compare(0 * stored_Dhw, original_Dhw, text_CD)[0].tolist() == [0, 0, 0, 1, 0]


def test_a_sample_is_spread_evenly() -> None:
    rows = np.arange(10, 110)
    assert spread(rows, 200) == list(range(10, 110))
    assert spread(rows, 4) == [10, 43, 76, 109]
