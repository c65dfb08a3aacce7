"""Makes kda.npz, rwkv7.npz and hgrn2.npz: the recurrences of three papers, a token and a head at a time, in float64.

Run `python tests/golden/make_baselines.py` to make them again. It uses numpy alone and nothing of recallfront.
Gradients come from complex steps: for an analytic f, Im f(x + i h) / h is f'(x) to the last digit when h is tiny,
because nothing is subtracted. So the arrays depend on no automatic differentiation either.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.complex128] | NDArray[np.float64]
Inputs = dict[str, Array]
Recurrence = Callable[[Inputs], tuple[Array, Array]]

BATCH, TIME, HEADS, KEYS, VALUES = 2, 37, 3, 6, 5
STEP = 1e-40


def kda(x: Inputs) -> tuple[Array, Array]:
    """arXiv:2510.26692 eq. (1): S_t = (I - beta_t k_t k_t^T) Diag(alpha_t) S_{t-1} + beta_t k_t v_t^T.

    o_t = S_t^T q_t.
    """
    state, outputs, identity = x["initial_state"], [], np.eye(KEYS)
    for t in range(TIME):
        q, k, v, beta = x["q"][t], x["k"][t], x["v"][t], x["beta"][t]
        alpha = np.exp(x["log_decay"][t])
        transition = (identity - beta * np.outer(k, k)) @ np.diag(alpha)
        state = transition @ state + beta * np.outer(k, v)
        outputs.append(state.T @ q)
    return np.stack(outputs), state


def rwkv7(x: Inputs) -> tuple[Array, Array]:
    """arXiv:2503.14456 sec. 4, in rows: wkv_t = wkv_{t-1} (diag(w_t) - kappa_t^T (a_t * kappa_t)) + v_t^T k_t.

    Its state has a row a value; p_t = r_t wkv_t^T. initial_state here is transposed, a row a key.
    """
    state, outputs = x["initial_state"].T, []
    for t in range(TIME):
        r, k, v, kappa, rate = x["q"][t], x["k"][t], x["v"][t], x["kappa"][t], x["rate"][t]
        w = np.exp(x["log_decay"][t])
        state = state @ (np.diag(w) - np.outer(kappa, rate * kappa)) + np.outer(v, k)
        outputs.append(state @ r)
    return np.stack(outputs), state.T


def hgrn2(x: Inputs) -> tuple[Array, Array]:
    """arXiv:2404.07904 eq. (3): h_t = Diag(f_t) h_{t-1} + (1 - f_t) outer i_t, y_t = h_t^T q_t (q is the output gate).

    f_t = bound + (1 - bound) sigmoid(logits_t): the forget gate above its lower bound (eq. 2 of HGRN).
    """
    state, outputs = x["initial_state"], []
    for t in range(TIME):
        forget = x["bound"] + (1 - x["bound"]) / (1 + np.exp(-x["logits"][t]))
        state = np.diag(forget) @ state + np.outer(1 - forget, x["v"][t])
        outputs.append(state.T @ x["q"][t])
    return np.stack(outputs), state


def unit(x: Array) -> Array:
    scaled: Array = x / np.sqrt((x**2).sum(-1, keepdims=True))
    return scaled


def decays(rng: np.random.Generator) -> Array:
    """Log decays (B, T, H, K): mild in the first head, from almost none to beyond float32 in the others, the last of
    which changes from one to the other from token to token and from key dimension to key dimension.
    """
    shape = (BATCH, TIME, HEADS, KEYS)
    log_decay = -0.6 * rng.random(shape)
    log_decay[:, :, 1] = -np.exp(rng.uniform(np.log(1e-4), np.log(200), (BATCH, 1, KEYS)))
    log_decay[:, :, 2] = -np.exp(rng.uniform(np.log(1e-6), np.log(200), (BATCH, TIME, KEYS)))
    log_decay[0, 5, 2], log_decay[1, 9, 0] = -20, -300
    return log_decay


def draw(name: str) -> Inputs:
    """Inputs (B, T, H, ...); without a time where they don't change."""
    rng = np.random.default_rng(["kda", "rwkv7", "hgrn2"].index(name))
    q, k = rng.normal(size=(2, BATCH, TIME, HEADS, KEYS))
    x: Inputs = {"q": q, "k": k, "v": rng.normal(size=(BATCH, TIME, HEADS, VALUES))}
    if name == "kda":
        x |= {"q": unit(q), "k": unit(k), "beta": rng.random((BATCH, TIME, HEADS)), "log_decay": decays(rng)}
    elif name == "rwkv7":
        x |= {"kappa": unit(rng.normal(size=k.shape)), "rate": rng.random(k.shape), "log_decay": decays(rng)}
    else:
        del x["k"]
        logits = rng.normal(size=k.shape)
        # gates nearly shut and nearly open
        logits[:, :, 1], logits[:, ::2, 2], logits[:, 1::2, 2] = -25, 15, -15
        x |= {"logits": logits, "bound": np.broadcast_to([[0.0], [0.0], [0.4]], (BATCH, HEADS, KEYS)).copy()}
    return x | {"initial_state": rng.normal(size=(BATCH, HEADS, KEYS, VALUES))}


def lane(x: Array, batch: int, head: int) -> Array:
    """One sequence's head of an input, whose heads stand behind the time where it has one."""
    return x[batch, :, head] if x.shape[1] == TIME else x[batch, head]


def gradients(run: Recurrence, x: Inputs, grad_out: Array, grad_state: Array) -> Inputs:
    """Of sum(out * grad_out) + sum(final_state * grad_state), for one head: a complex step an input number."""
    slopes: Inputs = {}
    for name, values in x.items():
        slope = np.zeros(values.shape)
        for place in np.ndindex(values.shape):
            moved = values.astype(np.complex128)
            moved[place] += 1j * STEP
            out, state = run(x | {name: moved})
            slope[place] = ((out * grad_out).sum() + (state * grad_state).sum()).imag / STEP
        slopes[name] = slope
    return slopes


def make(name: str, run: Recurrence) -> Inputs:
    """All arrays of one file."""
    inputs = draw(name)
    rng = np.random.default_rng(9)
    out = np.zeros((BATCH, TIME, HEADS, VALUES))
    last = np.zeros_like(inputs["initial_state"])
    grad_out, grad_last = rng.normal(size=out.shape), rng.normal(size=last.shape)
    grads = {key: np.zeros(x.shape) for key, x in inputs.items()}
    for batch, head in np.ndindex(BATCH, HEADS):
        x = {key: lane(value, batch, head) for key, value in inputs.items()}
        out[batch, :, head], last[batch, head] = run(x)
        for key, slope in gradients(run, x, grad_out[batch, :, head], grad_last[batch, head]).items():
            lane(grads[key], batch, head)[...] = slope
    results = {"out": out, "final_state": last, "grad_out": grad_out, "grad_final_state": grad_last}
    return inputs | results | {f"grad_{key}": grad for key, grad in grads.items()}


if __name__ == "__main__":
    for file, recurrence in (("kda", kda), ("rwkv7", rwkv7), ("hgrn2", hgrn2)):
        arrays: dict[str, Any] = make(file, recurrence)
        np.savez_compressed(Path(__file__).parent / f"{file}.npz", **arrays)
