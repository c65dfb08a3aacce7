"""Makes kda_mixer.npz, rwkv7_mixer.npz and hgrn2_mixer.npz: whole layers of three papers, in float64.

Run `python tests/golden/make_baseline_mixers.py` to make them again. It uses numpy alone and nothing of recallfront:
each layer reads one text, a token and a head at a time, as the papers' equations have it; names are the papers'.
Weights W act as x W^T, as they lie in PyTorch.
"""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Weights = dict[str, Array]

TIME, WIDTH, HEADS, TAPS, RANK, KEYS = 11, 12, 2, 3, 5, 4
DIM = WIDTH // HEADS


def sigmoid(x: Array) -> Array:
    y: Array = 1 / (1 + np.exp(-x))
    return y


def silu(x: Array) -> Array:
    return x * sigmoid(x)


def unit(x: Array) -> Array:
    y: Array = x / np.sqrt((x**2).sum())
    return y


def rms_norm(x: Array, gain: Array, eps: float) -> Array:
    y: Array = gain * x / np.sqrt((x**2).mean() + eps)
    return y


def head(x: Array, index: int) -> Array:
    """The numbers of one head."""
    return x[index * len(x) // HEADS : (index + 1) * len(x) // HEADS]


def convolved(x: Array, taps: Array) -> Array:
    """silu of a causal depthwise convolution; the last tap multiplies the newest token."""
    y = np.zeros_like(x)
    for t in range(len(x)):
        for back in range(min(t + 1, taps.shape[1])):
            y[t] += taps[:, taps.shape[1] - 1 - back] * x[t - back]
    return silu(y)


def kda(x: Array, w: Weights) -> Array:
    """arXiv:2510.26692 sec. 3 and 4: eq. (1), with q, k = L2Norm(Swish(ShortConv(W x))), v = Swish(ShortConv(W x)),
    alpha = f(W_up W_down x) as in Mamba-2, beta = sigmoid(W x), o = W_o (sigmoid(W_up W_down x) * RMSNorm(KDA)).
    """
    queries, keys, values = (convolved(x @ w[f"W_{name}"].T, w[f"conv_{name}"]) for name in "qkv")
    states = [np.zeros((KEYS, DIM)) for _ in range(HEADS)]
    out = np.zeros_like(x)
    for t in range(TIME):
        step = np.log1p(np.exp(w["W_alpha_up"] @ (w["W_alpha_down"] @ x[t]) + w["dt_bias"]))
        beta = sigmoid(w["W_beta"] @ x[t])
        gate = sigmoid(w["W_gate_up"] @ (w["W_gate_down"] @ x[t]) + w["b_gate"])
        heads = []
        for h in range(HEADS):
            q, k, v = unit(head(queries[t], h)), unit(head(keys[t], h)), head(values[t], h)
            alpha = np.exp(-np.exp(w["A_log"][h]) * head(step, h))
            decayed = np.diag(alpha) @ states[h]
            states[h] = (np.eye(KEYS) - beta[h] * np.outer(k, k)) @ decayed + beta[h] * np.outer(k, v)
            read = states[h].T @ q / np.sqrt(KEYS)
            heads.append(rms_norm(read, w["norm"], 1e-5) * head(gate, h))
        out[t] = w["W_o"] @ np.concatenate(heads)
    return out


def rwkv7(x: Array, w: Weights) -> Array:
    """arXiv:2503.14456 sec. 4, the first layer's, which has no value residual; states have a row a value."""
    states = [np.zeros((DIM, DIM)) for _ in range(HEADS)]
    out = np.zeros_like(x)
    for t in range(TIME):
        previous = x[t - 1] if t else np.zeros(WIDTH)
        mixed = {name: x[t] + (previous - x[t]) * w[f"mu_{name}"] for name in ("r", "d", "k", "v", "a", "g")}
        rate = sigmoid(w["A2"] @ (w["A1"] @ mixed["a"]) + w["a0"])
        decay = np.exp(-np.exp(-0.5) * sigmoid(w["D2"] @ np.tanh(w["D1"] @ mixed["d"]) + w["d0"]))
        gate = w["G2"] @ sigmoid(w["G1"] @ mixed["g"])
        key, value, receptance = w["W_k"] @ mixed["k"], w["W_v"] @ mixed["v"], w["W_r"] @ mixed["r"]
        removal = key * w["xi"]
        replacement = key * (1 + (rate - 1) * w["alpha"])
        heads = []
        for h in range(HEADS):
            kappa, r, v, k = unit(head(removal, h)), head(receptance, h), head(value, h), head(replacement, h)
            change = np.diag(head(decay, h)) - np.outer(kappa, head(rate, h) * kappa)
            states[h] = states[h] @ change + np.outer(v, k)
            read = states[h] @ r
            normed = (read - read.mean()) / np.sqrt(read.var() + DIM * 1e-5)
            bonus = (r * head(w["rho"], h) * k).sum() * v
            heads.append(normed * head(w["norm_gain"], h) + head(w["norm_bias"], h) + bonus)
        out[t] = w["W_o"] @ (gate * np.concatenate(heads))
    return out


def hgrn2(x: Array, w: Weights) -> Array:
    """arXiv:2404.07904 eq. (3), with forget gates above a bound; output gates by SiLU, as in the authors' layer."""
    states = [np.zeros((KEYS, DIM)) for _ in range(HEADS)]
    out = np.zeros_like(x)
    for t in range(TIME):
        forget = w["bound"] + (1 - w["bound"]) * sigmoid(w["W_f"] @ x[t])
        gate, entering = silu(w["W_o_gate"] @ x[t]), w["W_i"] @ x[t]
        heads = []
        for h in range(HEADS):
            f = head(forget, h)
            states[h] = np.diag(f) @ states[h] + np.outer(1 - f, head(entering, h))
            heads.append(states[h].T @ head(gate, h))
        out[t] = w["W_o"] @ rms_norm(np.concatenate(heads), w["norm"], 1e-6)
    return out


def draw(name: str) -> tuple[Array, Weights]:
    """A text (T, width) and a layer's weights."""
    rng = np.random.default_rng(["kda", "rwkv7", "hgrn2"].index(name))
    x = rng.normal(size=(TIME, WIDTH))

    def matrix(rows: int, columns: int) -> Array:
        drawn: Array = rng.normal(size=(rows, columns)) / np.sqrt(columns)
        return drawn

    inner = HEADS * KEYS
    if name == "kda":
        w = {"W_q": matrix(inner, WIDTH), "W_k": matrix(inner, WIDTH), "W_v": matrix(WIDTH, WIDTH)}
        w |= {"conv_q": matrix(inner, TAPS), "conv_k": matrix(inner, TAPS), "conv_v": matrix(WIDTH, TAPS)}
        w |= {
            "W_alpha_down": matrix(RANK, WIDTH),
            "W_alpha_up": matrix(inner, RANK),
            "dt_bias": rng.normal(size=inner),
        }
        w |= {
            "A_log": rng.normal(size=HEADS),
            "W_beta": matrix(HEADS, WIDTH),
            "norm": 1 + 0.3 * rng.normal(size=DIM),
        }
        w |= {
            "W_gate_down": matrix(RANK, WIDTH),
            "W_gate_up": matrix(WIDTH, RANK),
            "b_gate": rng.normal(size=WIDTH),
        }
        return x, w | {"W_o": matrix(WIDTH, WIDTH)}
    if name == "rwkv7":
        w = {f"mu_{stream}": rng.random(WIDTH) for stream in ("r", "d", "k", "v", "a", "g")}
        w |= {f"W_{stream}": matrix(WIDTH, WIDTH) for stream in ("r", "k", "v", "o")}
        for low_rank in "DAG":
            w |= {f"{low_rank}1": matrix(RANK, WIDTH), f"{low_rank}2": matrix(WIDTH, RANK)}
        vectors = ("d0", "a0", "xi", "alpha", "rho", "norm_gain", "norm_bias")
        return x, w | {vector: rng.normal(size=WIDTH) for vector in vectors}
    w = {"W_o_gate": matrix(inner, WIDTH), "W_f": matrix(inner, WIDTH), "W_i": matrix(WIDTH, WIDTH)}
    w |= {"bound": rng.random(inner), "norm": 1 + 0.3 * rng.normal(size=WIDTH), "W_o": matrix(WIDTH, WIDTH)}
    return x, w


LAYERS = {"kda": kda, "rwkv7": rwkv7, "hgrn2": hgrn2}

if __name__ == "__main__":
    for file, layer in LAYERS.items():
        text, weights = draw(file)
        arrays: dict[str, Any] = {"x": text, "out": layer(text, weights)} | weights
        np.savez_compressed(Path(__file__).parent / f"{file}_mixer.npz", **arrays)
