"""What should be done about a mistake? One remedy for each that has a name.

The names are those of ``Finding.mistake``.
"""

from __future__ import annotations

REMEDIES: dict[str, str] = {
    # Factors
    "no 1/m": "divide by the batch size: the loss is the mean over the samples",
    "1/m twice": "average over the samples once, not twice",
    "mean over outputs too": "sum the loss over the outputs; average it over the samples only",
    "half missing or extra": "loss and gradient disagree on the 1/2",
    "sign": "the error is a - y, not y - a, and the gradient is what is subtracted",
    "learning rate folded in": "return the gradient, not the step, or look for another constant "
    "of this size",
    "constant factor": "look for a learning rate, or another constant of this size",
    "logarithm of another base": "the loss has the natural logarithm",
    "divided by the wrong axis": "divide by the number of samples: check which axis holds them",
    "divided by m - 1": "the loss is the mean over the samples: divide by m",
    "hard-coded batch size": "divide by the number of samples that came, not by a fixed one",
    "multiplied by a size": "look for a sum where a mean, or nothing, belongs",
    "divided by a size": "look for a mean where a sum belongs",
    "accumulated": "set the gradients to zero before each pass",
    "gradient normalised": "return the gradient itself, not one of a fixed length",
    "root of the loss": "the loss is the mean squared error, not its root",
    "parameters returned, not gradients": "return the gradient, not the updated parameters",
    # The error of the output
    "output f' missing": "multiply dL/da by f'(z) of the output layer",
    "f' where cross-entropy cancels it": "delta of the output is a - y: cross-entropy cancels f'",
    "diagonal of the softmax Jacobian only": "the off-diagonal terms -a_i a_j are missing; with "
    "cross-entropy delta is a - y",
    "labels shifted": "check the one-hot encoding and whether classes count from 0",
    "labels changed": "use y as it is given",
    "labels inverted": "check what 1 means in y",
    "labels of other samples": "keep the rows of x and y in the same order",
    "index of the rows missing": "index each row too: p[range(m), y] -= 1",
    "labels scaled to -1 and 1": "use y as it is, from 0 to 1",
    "second term of the cross-entropy missing": "derive -y log a - (1-y) log(1-a) as a whole",
    "sign inside the cross-entropy": "the derivative is -y/a + (1-y)/(1-a)",
    "binary cross-entropy's derivative with softmax": "with softmax dL/da is -y/a",
    "error of the true class only": "every class has an error: a - y, also where y is 0",
    "z for a in the error": "apply the output's activation before y is subtracted",
    "sign of y": "the error is a - y",
    "loss for its derivative": "the derivative of (a - y)^2 / 2 is a - y",
    "hinge loss's derivative": "the loss is the cross-entropy: delta is a - y",
    "absolute error's derivative": "the derivative of (a - y)^2 / 2 is a - y",
    "predictions rounded": "train on the outputs themselves, not on the rounded ones",
    "cross-entropy's derivative": "the squared error's derivative is a - y",
    "1/m in one term only": "divide a - y as a whole",
    "error averaged over its entries": "every output of every sample has an error of its own",
    "epsilon in the denominator": "use the logits' form, a - y, which divides by nothing",
    "log of a saturated probability": "use log-softmax, or the logits' form a - y",
    "y of shape (m,) against (m,1)": "reshape y to (m, 1): (m, 1) - (m,) is (m, m)",
    # f'
    "hidden f' missing": "multiply by f'(z) of this layer",
    "f'(a)": "the derivative wants z; it got a",
    "z(1-z), 1-z^2": "the formula wants a; it got z",
    "f' twice": "multiply by f'(z) once",
    "f for f'": "use the derivative, not the function",
    "f' of another layer": "use this layer's own z",
    "f' of another activation": "use the derivative of the layer's own activation",
    "wrong derivative": "check the formula of f'",
    "ReLU mask from the wrong place": "mask with the layer's own z",
    "ReLU mask inverted": "f' is 1 where z is above 0",
    "f' at the error": "f' wants z, and multiplies the error",
    "f' at the mean of z": "take f' at each sample's own z",
    "straight-through estimate of f'": "use the derivative of the layer's activation",
    "a for z, or z for a, in f'": "check which of the two each factor of f' wants",
    "parentheses missing in f'": "put f' in parentheses",
    "z >= 0": "the convention of all frameworks is f'(0) = 0: use z > 0",
    # The way back
    "product rule: a term of f' missing": "f is a product: (u v)' = u' v + u v'",
    "mask of f' missing": "f' is 1 where z is above 0",
    "error missing in a part of delta": "multiply all of f'(z) by the error: parentheses",
    "f' added, not multiplied": "multiply the error by f'(z), entry by entry",
    "wrong Jacobian of the softmax": "dz_i = a_i (da_i - sum over j of a_j da_j), for each sample",
    "reshape where a transpose belongs": "use .T: reshape keeps the order of the entries in memory",
    "samples left out": "let every sample count: check the loop, or the slice, over the samples",
    "classes weighted": "all classes count the same in the loss",
    "samples weighted": "every sample counts the same in the mean",
    "W not transposed": "W's other index must be summed on the way back",
    "wrong W": "use the weights of the layer above",
    "W already updated": "finish the backward pass before any parameter moves",
    "error sent back without f'": "send delta back, which has f' in it",
    "delta of another layer": "use the delta of the layer just above",
    "bias added on the way back": "b has no part in the way back",
    "W missing on the way back": "multiply delta by W of the layer above",
    "bias column dropped at the wrong end": "drop the column that belongs to the ones",
    "averaged over the samples on the way back": "sum over the samples only in dW and db",
    # dW
    "dW transposed": "swap the two sides of the outer product",
    "wrong activation in dW": "use the layer's input a_{l-1}",
    "dW of another layer": "return each layer's own",
    "db of another layer": "sum this layer's own delta",
    "delta of another layer in dW": "use this layer's own delta",
    "rows overwritten in a loop": "add up the samples (+=), do not overwrite (=)",
    "averaged before the outer product": "multiply sample by sample, then average",
    "absolute value": "keep the sign",
    "gradient rounded": "do not round",
    "clipping": "switch clipping off to verify",
    "sum not reset in a loop": "set the sum to zero inside the loop, before each turn",
    "a loop ends too early": "check where the loop starts and ends",
    "dW zero": "fill it",
    "gradient zero": "look for a loop that ends too early, or a factor that is 0: an integer "
    "division, a mask, a * 1 - a without parentheses",
    "activation applied twice": "apply it once; losses that take logits apply it themselves",
    "layers in reverse order": "return the gradients in the order of the layers",
    # db
    "db averaged": "sum delta over the rows; the 1/m is in it already",
    "db zero": "db is the sum of delta over the rows",
    "db of one sample": "sum delta over the rows",
    "db summed over the wrong axis": "sum delta over the samples, one number for each unit",
    "f' at b": "db is the sum of delta, which has f'(z) in it",
    "db summed over everything": "sum delta over the samples only (axis=0 where rows are samples)",
    "db not summed over the samples": "sum delta over the samples",
    # L2
    "L2 missing": "add lambda W to dW",
    "L2 doubled": "the derivative of lambda W^2 / 2 is lambda W",
    "L2 over m": "the loss has lambda / 2 without 1/m",
    "L2 with the wrong sign": "add lambda W, do not subtract it",
    "L2 off by a factor": "check the factor of lambda",
    "L2 on the bias": "biases are not decayed",
    "L2 that the loss does not have": "drop the decay, or check with l2=...",
    "L2 of another layer's W": "decay each layer by its own W",
    "L1 for L2": "the derivative of lambda W^2 / 2 is lambda W, not lambda sign(W)",
    # The forward pass
    "inputs changed": "take x as it comes, or describe the network with what you make of it",
    "bias missing in the forward pass": "z is W a + b",
    "another activation in the forward pass": "use the network's activation, or describe the "
    "network with yours",
    "activation missing in the forward pass": "apply the activation",
    "z normalised in the forward pass": "switch batch or layer normalisation off to verify",
    "W scaled in the forward pass": "take W as it is",
    "a scaled in the forward pass": "take a as it is: dropout's factor belongs to dropout",
    "z scaled in the forward pass": "take z as it is: a temperature is no part of the network",
    "softmax over the wrong axis": "normalise each sample by itself",
    # Precision and behaviour
    "float32 somewhere": "look for a cast, a float32 constant or array, or for differences in the "
    "place of derivatives",
    "float16 somewhere": "look for a cast to half precision, for numbers that are rounded, or for "
    "differences in the place of derivatives",
    "inputs changed in place": "copy before changing anything that was passed in",
    "not deterministic": "switch dropout and noise off to verify",
    "arguments ignored": "use the arguments, not variables of the module",
}


def remedy(mistake: str) -> str:
    """What to do about a mistake, as a sentence begins; empty where there is no more to say than
    what was seen.
    """
    advice = REMEDIES.get(mistake, "")
    first = advice.partition(" ")[0]
    return advice if first in _SYMBOLS else advice[:1].upper() + advice[1:]


_SYMBOLS = ("f'", "f'(z)", "z", "b", "db", "dW", "dz_i")
"""What keeps its case where a sentence begins."""
