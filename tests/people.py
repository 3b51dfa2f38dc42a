"""Backpropagation as people publish it: the styles, and the mistakes, of tutorials and questions.

Every function is written in the manner of its kind, in its own layout and with its own names, and
none of them knows of bpbench.
"""

from __future__ import annotations

import numpy as np


def sigmoid(x):
    return 1.0 / (1.0 + np.exp(-x))


def relu(x):
    return np.maximum(0, x)


def softmax_rows(x):
    e = np.exp(x - np.max(x, axis=1, keepdims=True))
    return e / np.sum(e, axis=1, keepdims=True)


# ── Right, in many styles ──────────────────────────────────────────────────────────────────────


def columns_with_a_dictionary(parameters, X, Y):
    """Samples in columns, a dictionary in and out, the derivative of the loss by the outputs."""
    m = X.shape[1]
    W1, b1, W2, b2 = (parameters[k] for k in ("W1", "b1", "W2", "b2"))
    Z1 = np.dot(W1, X) + b1
    A1 = np.tanh(Z1)
    Z2 = np.dot(W2, A1) + b2
    A2 = sigmoid(Z2)
    dZ2 = A2 - Y
    dW2 = (1 / m) * np.dot(dZ2, A1.T)
    db2 = (1 / m) * np.sum(dZ2, axis=1, keepdims=True)
    dZ1 = np.multiply(np.dot(W2.T, dZ2), 1 - np.power(A1, 2))
    dW1 = (1 / m) * np.dot(dZ1, X.T)
    db1 = (1 / m) * np.sum(dZ1, axis=1, keepdims=True)
    return {"dZ2": dZ2, "dW1": dW1, "db1": db1, "dW2": dW2, "db2": db2}


def rows_with_class_numbers(X, y, W1, b1, W2, b2):
    """Samples in rows, weights (inputs, outputs), y as class numbers, the loss returned too."""
    N = X.shape[0]
    hidden = np.maximum(0, X.dot(W1) + b1)
    scores = hidden.dot(W2) + b2
    exp_scores = np.exp(scores - scores.max(axis=1, keepdims=True))
    probs = exp_scores / exp_scores.sum(axis=1, keepdims=True)
    loss = -np.log(probs[range(N), y]).mean()
    dscores = probs.copy()
    dscores[range(N), y] -= 1
    dscores /= N
    grads = {}
    grads["W2"] = np.dot(hidden.T, dscores)
    grads["b2"] = np.sum(dscores, axis=0, keepdims=True)
    dhidden = np.dot(dscores, W2.T)
    dhidden[hidden <= 0] = 0
    grads["W1"] = np.dot(X.T, dhidden)
    grads["b1"] = np.sum(dhidden, axis=0, keepdims=True)
    return loss, grads


def theta_with_a_column_of_biases(Theta1, Theta2, X, y):
    """A bias unit is put before the inputs of each layer, so that b is the first column of W."""
    m = X.shape[0]
    a1 = np.hstack([np.ones((m, 1)), X])
    z2 = a1.dot(Theta1.T)
    a2 = np.hstack([np.ones((m, 1)), sigmoid(z2)])
    h = sigmoid(a2.dot(Theta2.T))
    J = np.sum(-y * np.log(h) - (1 - y) * np.log(1 - h)) / m
    delta3 = h - y
    delta2 = delta3.dot(Theta2[:, 1:]) * sigmoid(z2) * (1 - sigmoid(z2))
    return J, delta2.T.dot(a1) / m, delta3.T.dot(a2) / m


def ones_after_the_inputs(weights, X, y):
    """W (inputs, outputs) with b as its last row; samples in rows."""
    with_ones = np.c_[X, np.ones(len(X))]
    hidden = np.c_[np.tanh(with_ones @ weights[0]), np.ones(len(X))]
    error = np.tanh(hidden @ weights[1]) - y
    delta = error * (1 - (error + y) ** 2)
    below = (delta @ weights[1].T)[:, :-1] * (1 - hidden[:, :-1] ** 2)
    return [with_ones.T @ below / len(X), hidden.T @ delta / len(X)]


def theta_as_matrices(theta_1, theta_2, X, y):
    """np.matrix, one example at a time in a loop, b as the first column of theta."""
    m = X.shape[0]
    x = np.matrix(np.c_[np.ones(m), X]).T
    y = np.matrix(y).T
    total_1, total_2 = 0, 0
    for t in range(m):
        hidden = np.concatenate((np.ones((1, 1)), sigmoid(np.matrix(theta_1) * x[:, t])))
        delta_3 = sigmoid(np.matrix(theta_2) * hidden) - y[:, t]
        delta_2 = np.multiply(np.matrix(theta_2).T * delta_3, np.multiply(hidden, 1 - hidden))
        total_2 = total_2 + delta_3 * hidden.T
        total_1 = total_1 + delta_2[1:] * x[:, t].T
    return total_1 / m, total_2 / m


def a_dictionary_by_kind_and_layer(params, x, y):
    """{"W": {1: ...}, "b": {1: ...}}, and gradients in dictionaries numbered from 1."""
    W, b = params["W"], params["b"]
    a = {0: x}
    for layer in range(1, len(W) + 1):
        a[layer] = sigmoid(W[layer] @ a[layer - 1] + b[layer])
    m, dW, db = x.shape[1], {}, {}
    delta = (a[len(W)] - y) * a[len(W)] * (1 - a[len(W)])
    for layer in range(len(W), 0, -1):
        dW[layer], db[layer] = delta @ a[layer - 1].T / m, delta.mean(axis=1, keepdims=True)
        delta = (W[layer].T @ delta) * a[layer - 1] * (1 - a[layer - 1])
    return dW, db


def names_that_say_what_they_hold(training_inputs, training_outputs, U, c, V, d):
    """No W and no b; what is left beside the data is taken in pairs."""
    hidden = np.tanh(training_inputs @ U + c)
    error = (hidden @ V + d - training_outputs) / len(training_inputs)
    below = error @ V.T * (1 - hidden**2)
    return training_inputs.T @ below, below.sum(axis=0), hidden.T @ error, error.sum(axis=0)


def layers_by_names(X, y, wh, bh, wout, bout):
    """Layers have names, not numbers; the error turned round, and the gradients turned back."""
    hidden = sigmoid(X.dot(wh) + bh)
    output = sigmoid(hidden.dot(wout) + bout)
    d_output = (y - output) * output * (1 - output)
    d_hidden = d_output.dot(wout.T) * hidden * (1 - hidden)
    return {
        "dwout": -hidden.T.dot(d_output) / len(X),
        "dbout": -d_output.mean(axis=0),
        "dwh": -X.T.dot(d_hidden) / len(X),
        "dbh": -d_hidden.mean(axis=0),
    }


def one_column_at_a_time(weights, biases, x, y):
    """One sample, a column; lists that are filled from the output back."""
    nabla_b = [np.zeros(b.shape) for b in biases]
    nabla_w = [np.zeros(w.shape) for w in weights]
    activation = x
    activations = [x]
    zs = []
    for b, w in zip(biases, weights, strict=True):
        z = np.dot(w, activation) + b
        zs.append(z)
        activation = sigmoid(z)
        activations.append(activation)
    delta = (activations[-1] - y) * sigmoid(zs[-1]) * (1 - sigmoid(zs[-1]))
    nabla_b[-1] = delta
    nabla_w[-1] = np.dot(delta, activations[-2].transpose())
    for layer in range(2, len(weights) + 1):
        z = zs[-layer]
        sp = sigmoid(z) * (1 - sigmoid(z))
        delta = np.dot(weights[-layer + 1].transpose(), delta) * sp
        nabla_b[-layer] = delta
        nabla_w[-layer] = np.dot(delta, activations[-layer - 1].transpose())
    return (nabla_w, nabla_b)


def one_vector_with_outer_products(W, b, x, t):
    """One sample, a vector; outer products."""
    h = np.tanh(W[0] @ x + b[0])
    o = W[1] @ h + b[1]
    d2 = o - t
    d1 = (W[1].T @ d2) * (1 - h * h)
    return [np.outer(d1, x), np.outer(d2, h)], [d1, d2]


def plain_python_loops(W, b, x, y):
    """No array operation at all: lists and loops."""
    m = len(x)
    gW = [[[0.0] * len(row) for row in w] for w in W]
    gb = [[0.0] * len(v) for v in b]
    for s in range(m):
        a = [list(x[s])]
        for w, v in zip(W, b, strict=True):
            a.append(
                [
                    1 / (1 + np.exp(-(sum(w[j][i] * a[-1][i] for i in range(len(a[-1]))) + v[j])))
                    for j in range(len(v))
                ]
            )
        delta = [(o - t) * o * (1 - o) / m for o, t in zip(a[-1], y[s], strict=True)]
        for layer in range(len(W) - 1, -1, -1):
            for j, d in enumerate(delta):
                gb[layer][j] += d
                for i, value in enumerate(a[layer]):
                    gW[layer][j][i] += d * value
            delta = [
                sum(delta[j] * W[layer][j][i] for j in range(len(delta))) * v * (1 - v)
                for i, v in enumerate(a[layer])
            ]
    return gW, gb


def pairs_of_layers(params, X, T):
    """A list of (dW, db), one pair for each layer."""
    n = len(params) // 2
    A = [X]
    for i in range(1, n + 1):
        A.append(sigmoid(A[-1] @ params[f"W{i}"].T + params[f"b{i}"]))
    grads = []
    delta = (A[-1] - T) * A[-1] * (1 - A[-1]) / X.shape[0]
    for i in range(n, 0, -1):
        grads.insert(0, (delta.T @ A[i - 1], delta.sum(axis=0)))
        delta = delta @ params[f"W{i}"] * A[i - 1] * (1 - A[i - 1])
    return grads


def arguments_by_name_only(*, weights, biases, inputs, targets):
    """Three layers, a dictionary of lists returned."""
    n = len(inputs)
    h = sigmoid(inputs @ weights[0].T + biases[0])
    g = sigmoid(h @ weights[1].T + biases[1])
    out = sigmoid(g @ weights[2].T + biases[2])
    e3 = (out - targets) * out * (1 - out) / n
    e2 = e3 @ weights[2] * g * (1 - g)
    e1 = e2 @ weights[1] * h * (1 - h)
    return {
        "weights": [e1.T @ inputs, e2.T @ h, e3.T @ g],
        "biases": [e1.sum(0), e2.sum(0), e3.sum(0)],
    }


class Network:
    """A book's network: biases come first, everywhere, and samples one by one."""

    def __init__(self, weights, biases):
        self.weights, self.biases = weights, biases

    def backprop(self, x, y):
        activations = [x]
        for b, w in zip(self.biases, self.weights, strict=True):
            activations.append(sigmoid(np.dot(w, activations[-1]) + b))
        nabla_b = [np.zeros(b.shape) for b in self.biases]
        nabla_w = [np.zeros(w.shape) for w in self.weights]
        a = activations[-1]
        delta = (a - y) * a * (1 - a)
        nabla_b[-1] = delta
        nabla_w[-1] = np.dot(delta, activations[-2].transpose())
        for layer in range(2, len(self.weights) + 1):
            a = activations[-layer]
            delta = np.dot(self.weights[-layer + 1].transpose(), delta) * a * (1 - a)
            nabla_b[-layer] = delta
            nabla_w[-layer] = np.dot(delta, activations[-layer - 1].transpose())
        return nabla_b, nabla_w


def biases_first_one_column_at_a_time(W, b, x, y):
    return Network(W, b).backprop(x, y)


def pairs_as_parameters(params, inputs, targets):
    """for w, b in params, as JAX's tutorials do; a dictionary for each layer returned."""
    activations = [inputs]
    for w, b in params:
        activations.append(np.tanh(activations[-1] @ w + b))
    delta = (activations[-1] - targets) * (1 - activations[-1] ** 2) / len(inputs)
    grads = []
    for (w, _), a in zip(params[::-1], activations[-2::-1], strict=True):
        grads.append({"w": a.T @ delta, "b": delta.sum(axis=0)})
        delta = delta @ w.T * (1 - a**2)
    return grads[::-1]


# ── Wrong, as questions show it ────────────────────────────────────────────────────────────────


def error_turned_round(weights, x, y):
    """No bias, no average, and y - a, to be added to the weights."""
    layer0 = x
    layer1 = sigmoid(layer0.dot(weights[0]))
    layer2 = sigmoid(layer1.dot(weights[1]))
    layer2_delta = (y - layer2) * (layer2 * (1 - layer2))
    layer1_delta = layer2_delta.dot(weights[1].T) * (layer1 * (1 - layer1))
    return [layer0.T.dot(layer1_delta), layer1.T.dot(layer2_delta)]


def summed_with_the_wrong_activation_below(W, b, X, y):
    """The sums of a tutorial with softmax, and sigmoid's derivative where tanh was applied."""
    a1 = np.tanh(X @ W[0] + b[0])
    delta3 = softmax_rows(a1 @ W[1] + b[1]) - y
    delta2 = delta3 @ W[1].T * a1 * (1 - a1)
    return [X.T @ delta2, a1.T @ delta3], [delta2.sum(0), delta3.sum(0)]


def derivative_of_what_is_activated_already(W, b, X, y):
    """sigmoid_prime(a): the function wants z."""

    def sigmoid_prime(z):
        return sigmoid(z) * (1 - sigmoid(z))

    m = X.shape[0]
    a1 = sigmoid(X @ W[0].T + b[0])
    a2 = sigmoid(a1 @ W[1].T + b[1])
    d2 = (a2 - y) / m * sigmoid_prime(a2)
    d1 = d2 @ W[1] * sigmoid_prime(a1)
    return [d1.T @ X, d2.T @ a1], [d1.sum(0), d2.sum(0)]


def step_within_the_pass(W, b, X, y, rate=0.1):
    """The upper weights are moved before the error goes back through them."""
    m = len(X)
    a1 = sigmoid(X @ W[0] + b[0])
    a2 = sigmoid(a1 @ W[1] + b[1])
    d2 = (a2 - y) * a2 * (1 - a2) / m
    g2 = a1.T @ d2
    W2 = W[1] - rate * g2
    d1 = d2 @ W2.T * a1 * (1 - a1)
    return (X.T @ d1, g2), (d1.sum(axis=0), d2.sum(axis=0))


def relu_masked_by_the_gradient(W, b, X, y):
    """grad[grad < 0] = 0 where grad[z < 0] = 0 is meant."""
    m = len(X)
    h = relu(X @ W[0] + b[0])
    grad_out = (h @ W[1] + b[1] - y) / m
    grad_h = grad_out @ W[1].T
    grad_h[grad_h < 0] = 0
    return [X.T @ grad_h, h.T @ grad_out], [grad_h.sum(0), grad_out.sum(0)]


def bias_summed_to_a_number(W, b, X, Y):
    """np.sum without an axis."""
    m = X.shape[1]
    A1 = sigmoid(W[0] @ X + b[0])
    A2 = sigmoid(W[1] @ A1 + b[1])
    dZ2 = A2 - Y
    dZ1 = W[1].T @ dZ2 * A1 * (1 - A1)
    return (dZ1 @ X.T / m, dZ2 @ A1.T / m), (np.sum(dZ1) / m, np.sum(dZ2) / m)


def unit_by_unit_of_a_fixed_size(W, X, y):
    """2-2-1 with every index written out; the output's f' is forgotten in the upper weights."""
    w0, w1 = W[0], W[1][:, 0]
    g0, g1 = np.zeros_like(w0), np.zeros_like(W[1])
    for x, t in zip(X, np.ravel(y), strict=False):
        h0 = sigmoid(w0[0, 0] * x[0] + w0[1, 0] * x[1])
        h1 = sigmoid(w0[0, 1] * x[0] + w0[1, 1] * x[1])
        o = sigmoid(w1[0] * h0 + w1[1] * h1)
        e = o - t
        for i in (0, 1):
            g0[i, 0] += e * o * (1 - o) * w1[0] * h0 * (1 - h0) * x[i]
            g0[i, 1] += e * o * (1 - o) * w1[1] * h1 * (1 - h1) * x[i]
        g1[0, 0] += e * h0
        g1[1, 0] += e * h1
    return [g0 / len(X), g1 / len(X)]
