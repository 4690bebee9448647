"""Whitened principal components of prompt embeddings: the features that the heads learn on."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

MIN_COMPONENTS = 4
MAX_COMPONENTS = 32


@dataclass(frozen=True)
class Basis:
    """``features(x) = [1, (x - mean) @ projection]``: unit variance along each kept direction.

    ``mean`` is float64 [d], ``projection`` float64 [d, m]; m = 0 is the basis before any prompt was seen.
    ``shrinkage`` float64 [m] is by how much shorter than the fitted samples' the others' projections are.
    """

    mean: np.ndarray
    projection: np.ndarray
    shrinkage: np.ndarray

    @property
    def size(self) -> int:
        """How many features it gives, the constant included."""
        return self.projection.shape[1] + 1

    def features(self, embeddings: np.ndarray) -> np.ndarray:
        """Features of embeddings [b, d] as float64 [b, m + 1]."""
        centred = np.asarray(embeddings, dtype=np.float64) - self.mean
        features = np.empty((centred.shape[0], self.size))
        features[:, 0] = 1.0
        features[:, 1:] = centred @ self.projection
        return features

    def fitted_features(self, embeddings: np.ndarray) -> np.ndarray:
        """Features of the very embeddings [b, d] that the basis was fitted to, float64 [b, m + 1]."""
        features = self.features(embeddings)
        features[:, 1:] *= self.shrinkage
        return features


def constant_basis(dim: int) -> Basis:
    """The basis before any prompt: the constant alone, so that each miner's mean can be learnt."""
    return Basis(np.zeros(dim), np.zeros((dim, 0)), np.zeros(0))


def fit_basis(embeddings: np.ndarray, least: int = MIN_COMPONENTS, most: int = MAX_COMPONENTS) -> Basis:
    """Whitened PCA of embeddings [n, d], keeping the eigenvalues above the Marchenko-Pastur edge.

    For n samples of d-dimensional noise of variance s2 the largest sample eigenvalue tends to
    s2 (1 + sqrt(d / n))^2 (Marchenko and Pastur 1967). s2 is estimated from what is left when the kept
    directions are taken out, until it settles. The number kept is clipped to least..most (and to n - 1).
    The sign of each direction is fixed (its largest entry is positive), so equal inputs give equal bits.

    Principal components follow the noise of the very samples they were fitted to: another prompt's projection
    comes out shorter, by theta / (theta + d / n) for a spike theta times the noise (Lee, Zou and Wright 2010).
    The projection is lengthened by the inverse, so that other prompts have unit variance; features of the fitted
    samples themselves are ``fitted_features``.
    """
    x = np.asarray(embeddings, dtype=np.float64)
    n, dim = x.shape
    mean = x.mean(axis=0)
    centred = x - mean
    # The smaller of the two Gram matrices has the same non-zero eigenvalues.
    if n <= dim:
        values, vectors = np.linalg.eigh(centred @ centred.T / n)
        values, vectors = values[::-1], vectors[:, ::-1]
        directions = centred.T @ vectors
    else:
        values, vectors = np.linalg.eigh(centred.T @ centred / n)
        values, directions = values[::-1], vectors[:, ::-1]
    rank = int(np.sum(values > max(values[0], 0.0) * 1e-9)) if values[0] > 1e-12 else 0
    above, noise = _above_edge(np.clip(values, 0.0, None), n, dim)
    kept = min(max(above, least), most, rank, max(n - 1, 0))
    shrinkage = _shrinkage(values[:kept] / max(noise, 1e-12), dim / n)
    projection = np.empty((dim, kept))
    for j in range(kept):
        direction = directions[:, j] / np.linalg.norm(directions[:, j])
        direction *= np.sign(direction[np.argmax(np.abs(direction))])
        projection[:, j] = direction / (np.sqrt(values[j]) * shrinkage[j])
    return Basis(mean, projection, shrinkage)


def _above_edge(values: np.ndarray, n: int, dim: int) -> tuple[int, float]:
    """How many of the sorted eigenvalues are over the edge of the noise that the others make up, and its variance."""
    total = float(values.sum())
    kept = 0
    while True:
        degrees = (dim - kept) * (1 - kept / n)
        noise = (total - float(values[:kept].sum())) / max(degrees, 1.0)
        edge = noise * (1 + np.sqrt((dim - kept) / max(n - kept, 1))) ** 2
        if kept >= min(n, dim) - 1 or values[kept] <= edge:
            return kept, noise
        kept += 1


def _shrinkage(values: np.ndarray, gamma: float) -> np.ndarray:
    """Length of a new sample's score over a fitted one's, for sample eigenvalues in units of the noise.

    The spike theta solves value = (1 + theta) (1 + gamma / theta); under the edge there is no solution, and theta
    is the smallest that can be seen, sqrt(gamma).
    """
    b = values - 1.0 - gamma
    theta = np.maximum((b + np.sqrt(np.maximum(b * b - 4.0 * gamma, 0.0))) / 2.0, np.sqrt(gamma))
    return np.clip(theta / (theta + gamma), 0.5, 1.0)
