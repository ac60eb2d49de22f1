"""left @ right.T = the nearest matrix of a given rank, the singular values shared out evenly between the two.

Nearest in ||M - L R^T||, or, given C = E[x x^T], in E ||(M - L R^T) x||: the norm of (M - L R^T) C^(1/2).
"""

from __future__ import annotations

import numpy as np

_OVERSAMPLING = 16
_PASSES = 4
"""Power iterations: for a matrix of noise, the worst case, the energy is then within 4 % of the best."""
_SEED = 0


def leading_factors(matrix: np.ndarray, rank: int) -> tuple[np.ndarray, np.ndarray]:
    """float32 [N, K] -> columns as rows, [rank, N] and [rank, K], largest singular value first; zeros past the rank.

    Few directions of a large matrix come from a randomized subspace (Halko, Martinsson, Tropp 2011) with a fixed seed,
    so that the same matrix has the same factors; else from the eigenvectors of the smaller Gram matrix.
    """
    wide = matrix.shape[0] <= matrix.shape[1]
    tall = matrix.T if wide else matrix
    short = tall.shape[1]
    if 4 * (rank + _OVERSAMPLING) <= short:
        right, values = _randomized(tall, rank)
    else:
        right, values = _exact(tall, rank)
    # tall @ right = left singular vectors * values: both sides get the root of the value.
    root = np.sqrt(values)
    safe = np.where(root > 0, root, 1)
    long = ((tall @ right) / safe).astype(np.float32)
    long[:, root == 0] = 0
    near = (right * root).astype(np.float32)
    left, right = (near, long) if wide else (long, near)
    return np.ascontiguousarray(left.T), np.ascontiguousarray(right.T)


def _randomized(tall: np.ndarray, rank: int) -> tuple[np.ndarray, np.ndarray]:
    """(right singular vectors [short, rank], values [rank])."""
    start = np.random.default_rng(_SEED).standard_normal((tall.shape[1], rank + _OVERSAMPLING), dtype=np.float32)
    basis = np.linalg.qr(start)[0]
    for _ in range(_PASSES):
        basis = np.linalg.qr(tall.T @ np.linalg.qr(tall @ basis)[0])[0]
    _, values, vt = np.linalg.svd(np.linalg.qr(tall @ basis)[1])
    return (basis @ vt.T)[:, :rank], values[:rank]


def singular_values(matrix: np.ndarray, rank: int) -> np.ndarray:
    """The largest `rank` singular values of float32 [N, K]."""
    left, right = leading_factors(matrix, rank)
    return np.asarray(np.linalg.norm(left, axis=1) * np.linalg.norm(right, axis=1))


def weighted_factors(matrix: np.ndarray, rank: int, moment: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """([rank, N], [rank, K], values [rank]): the matrix L R^T of `rank` with least E ||(M - L R^T) x||, moment = E[x x^T].

    L spans the leading left singular vectors of M C^(1/2), found by iteration on M C M^T: C needs no root and no inverse,
    and may be singular. Then R = M^T L for L orthonormal, whatever C. values are the singular values of M C^(1/2).
    """
    size = min(rank + _OVERSAMPLING, *matrix.shape)
    start = np.random.default_rng(_SEED).standard_normal((matrix.shape[0], size), dtype=np.float32)
    seen = matrix @ moment
    basis = np.linalg.qr(start)[0]
    for _ in range(_PASSES):
        basis = np.linalg.qr(seen @ (matrix.T @ basis))[0]
    gram = (basis.T @ seen).astype(np.float64) @ (matrix.T @ basis)
    squares, vectors = np.linalg.eigh((gram + gram.T) / 2)
    left = basis @ vectors[:, ::-1][:, :rank].astype(np.float32)
    right = left.T @ matrix
    values = np.sqrt(np.maximum(squares[::-1][:rank], 0))
    root = np.sqrt(np.linalg.norm(right, axis=1))
    safe = np.where(root > 0, root, 1)[:, None]
    found = (left.T * safe * (root[:, None] > 0), right / safe, values)
    a, b, c = (np.zeros((rank, *each.shape[1:]), np.float32) for each in found)
    a[: len(left.T)], b[: len(right)], c[: len(values)] = found
    return a, b, c


def _exact(tall: np.ndarray, rank: int) -> tuple[np.ndarray, np.ndarray]:
    wide64 = tall.astype(np.float64)
    squares, vectors = np.linalg.eigh(wide64.T @ wide64)
    squares = squares[::-1][:rank]
    # Below this share of the largest, an eigenvalue is rounding.
    kept = squares > 1e-14 * max(float(squares[0]), 0.0)
    return vectors[:, ::-1][:, :rank], np.sqrt(np.where(kept, squares, 0))
