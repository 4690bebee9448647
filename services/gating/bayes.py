"""The default rule: hierarchical Bayesian regression of rewards on whitened prompt features, one per hotkey.

Hotkey u answers a prompt of features x (basis.py) with a target y = w_u . x + noise; all w_u are drawn from one
multivariate t distribution whose mean and scale are themselves learnt by EM (as a Gaussian with a scale of its own
for each hotkey; Lange, Little and Taylor 1989). Its tails are heavy because specialists are: a Gaussian fitted to
many dull miners would take a few brilliant ones for luck. So a miner nobody has asked is expected to be like
the others, a miner asked a few times is judged by those times and by how miners differ, and the uncertainty of
both is known, which is what choosing and exploring need.

The basis starts as the constant alone, is refitted every 32 distinct prompts, and is fixed at
``basis_prompts``; until then counts and sums of targets are kept for each (hotkey, prompt), so that nothing learnt
is lost when the basis changes, and memory is bounded.

What these directions leave unexplained is remembered by the whole embedding, as far as that proves right (memory.py).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np
import torch

from services.gating.basis import MAX_COMPONENTS, Basis, constant_basis, fit_basis
from services.gating.early import EarlyPrompts
from services.gating.memory import LEAST_TRUST, Memory, unit
from services.gating.outlook import Covariances, Outlook
from services.gating.pack import HeadFormat, pack, unpack
from services.gating.rows import RowIndex, grown
from services.gating.targets import Targets, successes

_REFIT_EVERY = 32
_REFIT_SWEEPS = 5
_EARLY_SWEEPS = (10, 20, 30, 40)
_SWEEP_FLOPS = 1.2e7
_FORGET_EVERY = 500
_DEGREES = 2.0
"""Degrees of freedom of the prior."""
_FIRST_NOISE = 0.3
_NOISE_RATE = 0.02
_NOISE_RANGE = (0.02, 4.0)


@dataclass(frozen=True)
class BayesOptions:
    """How the rule learns.

    ``capacity`` bounds the hotkeys remembered; ``basis_prompts`` distinct prompts fix the basis; an EM sweep runs
    every ``sweep_every`` observations; a hotkey's evidence halves its weight per ``horizon`` * ln 2 of its own
    observations (miners change their models), 0 for never.
    """

    capacity: int = 8192
    basis_prompts: int = 512
    max_components: int = MAX_COMPONENTS
    sweep_every: int = 50
    horizon: float = 2000.0


class BayesHead:
    """Hierarchical Bayes keyed by hotkey. See the module's docstring; the API is services.gating.head.Head."""

    rule = "bayes"

    def __init__(self, dim: int, encoder: str = "", options: BayesOptions | None = None) -> None:
        self.dim = dim
        self.encoder = encoder
        self.options = options or BayesOptions()
        self.observations = 0
        self.basis: Basis = constant_basis(dim)
        self._early: EarlyPrompts | None = EarlyPrompts(dim, self.options.basis_prompts)
        self._index = RowIndex(self.options.capacity)
        self._targets = Targets()
        self._noise = _FIRST_NOISE
        self._cursor = 0
        self._memory = Memory(dim)
        self._reset_prior()

    @property
    def settled(self) -> bool:
        """Whether the basis is fixed."""
        return self._early is None

    # -- learning

    def observe(
        self,
        embedding: np.ndarray,
        hotkeys: np.ndarray,
        rewards: np.ndarray,
        ok: np.ndarray,
        latency_s: np.ndarray | None = None,
    ) -> None:
        """Learn from one prompt's embedding [d], and hotkeys, rewards, ok [n]; see Head.observe."""
        del latency_s
        self.observations += 1
        prompt = self._remember(embedding)
        x = self.basis.features(embedding[None])[0]
        success = successes(rewards, ok)
        target = self._targets(rewards, success, self._level(x, hotkeys, success))
        if target is not None and (told := np.isfinite(target)).any():
            self._learn(x, unit(embedding[None])[0], hotkeys[told], target[told], prompt)
        if self.observations % self.options.sweep_every == 0 or self.observations in _EARLY_SWEEPS:
            self.sweep()
        if self.options.horizon > 0 and self.observations % _FORGET_EVERY == 0:
            self._memory.forget(self.options.horizon)

    def _level(self, x: np.ndarray, hotkeys: np.ndarray, success: np.ndarray) -> float:
        """Where the head expects the successful to stand relative to all hotkeys it knows."""
        if not len(self._index) or not success.any():
            return 0.0
        rows = self._index.find(hotkeys[success])
        prior = float(self._prior_mean @ x)
        expected = np.where(rows >= 0, self._mean[rows] @ x, prior)
        alive = (self._seen[: self._index.used] > 0).astype(np.float64)
        count = float(alive.sum())
        everyone = float((alive @ self._mean[: self._index.used]) @ x) / count if count else prior
        return float(expected.mean()) - everyone

    def _learn(
        self, x: np.ndarray, z: np.ndarray, hotkeys: np.ndarray, target: np.ndarray, prompt: int
    ) -> None:
        rows = self._claim(hotkeys)
        spread = self._cov[rows] @ x
        variance = self._noise + spread @ x
        error = target - self._mean[rows] @ x
        self._memory.learn(z, rows, error, rows.size / len(self._index))
        self._mean[rows] += spread * (error / variance)[:, None]
        root = spread / np.sqrt(variance)[:, None]
        self._cov[rows] -= root[:, :, None] * root[:, None, :]  # symmetric to the bit
        self._gram[rows] += x[:, None] * x
        self._moment[rows] += target[:, None] * x
        self._seen[rows] += 1.0
        self._since[rows] += 1.0
        if self._early is not None:
            self._early.add(rows, prompt, target)
        surprise = float(np.mean(np.square(error) / variance)) - 1.0
        self._noise *= float(np.exp(_NOISE_RATE * np.clip(surprise, -1.0, 1.0)))
        self._noise = float(np.clip(self._noise, *_NOISE_RANGE))

    def _claim(self, hotkeys: np.ndarray) -> np.ndarray:
        rows, fresh = self._index.claim(hotkeys)
        if fresh.size:
            self._grow()
            self._clear(fresh)
        return rows

    def _grow(self) -> None:
        used = self._index.used
        for name in ("_mean", "_cov", "_gram", "_moment", "_seen", "_since", "_grip"):
            setattr(self, name, grown(getattr(self, name), used))
        self._memory.grow(used)
        if self._early is not None:
            self._early.grow(used)

    def _clear(self, rows: np.ndarray) -> None:
        """Back to the prior."""
        self._mean[rows] = self._prior_mean
        self._cov[rows] = self._prior_cov
        for array in (self._gram, self._moment, self._seen, self._since):
            array[rows] = 0.0
        self._grip[rows] = 1.0
        self._memory.clear(rows)
        if self._early is not None:
            self._early.clear(rows)

    # -- the basis

    def _remember(self, embedding: np.ndarray) -> int:
        """The prompt's column while the basis is still open, -1 afterwards; a new prompt may bring a new basis."""
        if self._early is None:
            return -1
        column, new = self._early.column(embedding)
        full = len(self._early) >= self._early.limit
        if new and (full or len(self._early) % _REFIT_EVERY == 0):
            self._refit(self._early)
        if new and full:
            self._early = None
        return column

    def _refit(self, early: EarlyPrompts) -> None:
        """A basis from the prompts so far, and all that was learnt, told again in its features."""
        self.basis = fit_basis(early.embeddings, most=self.options.max_components)
        used = self._index.used
        self._reset_prior()
        self._grow()
        features = self.basis.fitted_features(early.embeddings)
        self._gram[:used], self._moment[:used], self._seen[:used] = early.evidence(features, used)
        self._grip[:used] = 1.0
        self._posterior(np.arange(used))
        for _ in range(_REFIT_SWEEPS):
            self.sweep()
        counts, residuals = early.residuals(features, self._mean[:used])
        self._memory.relearn(unit(early.embeddings), counts, residuals)
        self._memory.grow(self._mean.shape[0])

    def _reset_prior(self) -> None:
        p = self.basis.size
        self._prior_mean = np.zeros(p)
        self._prior_cov = self._base_cov()
        self._mean = np.zeros((0, p))
        self._cov = np.zeros((0, p, p))
        self._gram = np.zeros((0, p, p))
        self._moment = np.zeros((0, p))
        self._seen = np.zeros(0)
        self._since = np.zeros(0)
        self._grip = np.zeros(0)

    def _base_cov(self) -> np.ndarray:
        """What is believed of the miners' spread before any was seen: half the variance of a z-score in the
        mean, half shared among the features."""
        p = self.basis.size
        return np.diag(np.r_[0.5, np.full(p - 1, 0.5 / max(p - 1, 1))])

    # -- the prior

    def sweep(self) -> None:
        """One EM step on the shared prior, and the posteriors under the new one.

        Where hotkeys times features cubed is large, a sweep renews a bounded share of the hotkeys in rotation
        (incremental EM, Neal and Hinton 1998): the others keep the posterior of an earlier prior for a while.
        """
        used, p = self._index.used, self.basis.size
        active = np.flatnonzero(self._seen[:used] > 0)
        if active.size < 2:
            return
        mean, cov = self._mean[:used], self._cov[:used]
        if active.size < used:
            mean, cov = mean[active], cov[active]
        base_weight = p + 2.0
        count = active.size
        self._prior_mean = mean.sum(axis=0) / (count + 1.0)
        apart = mean - self._prior_mean
        # How firmly the prior holds each hotkey: less, the further it is from the others.
        prior = np.linalg.inv(self._prior_cov)
        flat = cov.reshape(active.size, p * p)
        distance = np.sum((apart @ prior) * apart, axis=1) + flat @ prior.ravel()
        grip = (_DEGREES + p) / (_DEGREES + distance)
        self._grip[active] = grip
        scatter = (grip @ flat).reshape(p, p) + (apart * grip[:, None]).T @ apart
        scale = (base_weight * self._base_cov() + scatter) / (base_weight + count)
        self._prior_cov = (scale + scale.T) / 2
        limit = max(64, int(_SWEEP_FLOPS / (p**3 + 1500.0)))
        if active.size > limit:
            at = int(np.searchsorted(active, self._cursor))
            active = np.roll(active, -at)[:limit]
            self._cursor = int(active[-1]) + 1
        self._forget(active)
        self._posterior(active)

    def _forget(self, rows: np.ndarray) -> None:
        if self.options.horizon <= 0:
            return
        old = np.exp(-self._since[rows] / self.options.horizon)
        self._gram[rows] *= old[:, None, None]
        self._moment[rows] *= old[:, None]
        self._seen[rows] *= old
        self._since[rows] = 0.0

    def _posterior(self, rows: np.ndarray) -> None:
        """Posterior mean and covariance of ``rows`` from their evidence and the prior."""
        if not rows.size:
            return
        prior = np.linalg.inv(self._prior_cov)
        precision = self._gram[rows]
        precision /= self._noise
        grip = self._grip[rows]
        precision += grip[:, None, None] * prior
        factor = torch.linalg.cholesky(torch.from_numpy(precision))
        cov = torch.cholesky_inverse(factor).numpy()
        self._cov[rows] = cov
        moment = self._moment[rows] / self._noise + grip[:, None] * (prior @ self._prior_mean)
        self._mean[rows] = np.matmul(cov, moment[:, :, None])[:, :, 0]

    # -- serving

    def scores(self, embeddings: np.ndarray, hotkeys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Expected target and its standard deviation for embeddings [b, d] and hotkeys [n]: two float64 [b, n]."""
        x = self.basis.features(embeddings)
        rows = self._index.find(hotkeys)
        mean = np.empty((x.shape[0], rows.size))
        variance = np.empty_like(mean)
        mean[:] = (x @ self._prior_mean)[:, None]
        variance[:] = np.einsum("bi,ij,bj->b", x, self._prior_cov, x)[:, None]
        known = rows >= 0
        found = rows[known]
        if found.size:
            used, p = self._index.used, self.basis.size
            mean[:, known] = (x @ self._mean[:used].T)[:, found]
            products = (x[:, :, None] * x[:, None, :]).reshape(-1, p * p)
            if 2 * found.size > used:  # one pass over all is cheaper than picking rows
                variance[:, known] = (products @ self._cov[:used].reshape(used, p * p).T)[:, found]
            else:
                variance[:, known] = products @ self._cov[found].reshape(-1, p * p).T
            if self._memory.slopes.max() >= LEAST_TRUST:
                mean[:, known] += (self._recall(embeddings) @ self._memory.weights[:used].T)[:, found]
        return mean, np.sqrt(np.clip(variance, 1e-9, None))

    def outlook(self, hotkeys: np.ndarray) -> Outlook:
        """See Head.outlook."""
        rows = self._index.find(hotkeys)  # -1 is the last of each
        weights = np.vstack([self._mean[: self._index.used], self._prior_mean])[rows]
        variance = Covariances(self._cov, self._prior_cov, rows)
        basis, p = self.basis, self.basis.size
        if self._memory.slopes.max() < LEAST_TRUST:
            return Outlook(basis.features, weights, variance)
        nothing = np.zeros(self.dim, dtype=np.float32)
        remembered = np.vstack([self._memory.weights[: self._index.used], nothing])[rows]
        return Outlook(
            lambda embeddings: np.hstack([basis.features(embeddings), self._recall(embeddings)]),
            np.hstack([weights, remembered]),
            lambda x: variance(x[:p]),
        )

    def _recall(self, embeddings: np.ndarray) -> np.ndarray:
        """Unit embeddings [b, d], as long as the memory is to be believed of them."""
        z = unit(embeddings)
        return z * self._memory.trust(z)[:, None]

    @property
    def features(self) -> int:
        """How many numbers describe a prompt, the constant included."""
        return self.basis.size

    @property
    def noise(self) -> float:
        """Standard deviation of one reward around its expectation, in the scores' unit."""
        return float(np.sqrt(self._noise))

    def retire(self, hotkeys: np.ndarray) -> None:
        """Forget hotkeys that left the subnet."""
        freed = self._index.release(hotkeys)
        if freed.size:
            self._clear(freed)

    def known(self, hotkeys: np.ndarray) -> np.ndarray:
        """Whether anything was learnt of each hotkey, bool [n]."""
        return self._index.find(hotkeys) >= 0

    def __len__(self) -> int:
        return len(self._index)

    # -- checkpoints

    def to_bytes(self) -> bytes:
        """The whole state; from_bytes gives a head that goes on bit for bit as this one."""
        used, p = self._index.used, self.basis.size
        upper = np.triu_indices(p)
        meta = {
            "dim": self.dim,
            "encoder": self.encoder,
            "options": asdict(self.options),
            "observations": self.observations,
            "noise": self._noise,
            "cursor": self._cursor,
            "targets": [self._targets.variance, self._targets.steps],
        }
        arrays = {
            "basis_mean": self.basis.mean,
            "basis_projection": self.basis.projection,
            "basis_shrinkage": self.basis.shrinkage,
            "prior_mean": self._prior_mean,
            "prior_cov": self._prior_cov,
            "mean": self._mean[:used],
            "cov": self._cov[:used][:, upper[0], upper[1]],
            "gram": self._gram[:used][:, upper[0], upper[1]],
            "moment": self._moment[:used],
            "seen": self._seen[:used],
            "since": self._since[:used],
            "grip": self._grip[:used],
            **self._memory.arrays(used),
            **(self._early.arrays(used) if self._early is not None else {}),
            **self._index.arrays(),
        }
        return pack(self.rule, meta, arrays)

    @classmethod
    def from_bytes(cls, data: bytes) -> BayesHead:
        """The head that ``to_bytes`` described. Raises HeadFormat when it is damaged or of another kind."""
        meta, arrays = unpack(data, cls.rule)
        try:
            head = cls(meta["dim"], meta["encoder"], BayesOptions(**meta["options"]))
            head.observations = meta["observations"]
            head._noise, head._cursor = meta["noise"], meta["cursor"]
            head._targets = Targets(meta["targets"][0], meta["targets"][1])
            head.basis = Basis(arrays["basis_mean"], arrays["basis_projection"], arrays["basis_shrinkage"])
            head._index = RowIndex.from_arrays(arrays)
            used, p = head._index.used, head.basis.size
            head._prior_mean, head._prior_cov = arrays["prior_mean"], arrays["prior_cov"]
            head._mean = arrays["mean"]
            head._cov, head._gram = _square(arrays["cov"], p), _square(arrays["gram"], p)
            head._moment, head._seen = arrays["moment"], arrays["seen"]
            head._since, head._grip = arrays["since"], arrays["grip"]
            head._memory = Memory.from_arrays(arrays)
            fits = head._mean.shape == (used, p) and head._memory.weights.shape == (used, head.dim)
            if not fits or head.basis.mean.shape != (head.dim,):
                raise HeadFormat("the arrays of the gating state do not fit together")
            settled = "early_counts" not in arrays
            head._early = None if settled else EarlyPrompts.from_arrays(arrays, head.options.basis_prompts)
        except (KeyError, TypeError, IndexError) as error:
            raise HeadFormat(f"the gating state lacks something: {error}") from error
        return head


def _square(upper: np.ndarray, p: int) -> np.ndarray:
    """Symmetric matrices [n, p, p] from their upper triangles [n, p (p + 1) / 2]."""
    rows, columns = np.triu_indices(p)
    whole = np.zeros((upper.shape[0], p, p))
    whole[:, rows, columns] = upper
    whole[:, columns, rows] = upper
    return whole
