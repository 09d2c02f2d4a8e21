"""Slow, obviously right references of losses on features: loops in float64, written from the papers and their codes.

Each takes the features of one pair of layers, as float64 tensors [B, ...] that may differ in size, and the options of its loss, and gives
the value of the whole batch.
"""

import math
from itertools import pairwise, product

import torch


def positions(features):
    return list(product(*map(range, features.shape[2:])))


def shrunk(features, size):
    """The mean over areas: output i of n covers floor(i * m / n) to ceil((i + 1) * m / n) of m."""
    given = features.shape[2:]
    result = torch.zeros(*features.shape[:2], *size, dtype=features.dtype)
    for place in product(*map(range, size)):
        areas = [range(i * m // n, -(-(i + 1) * m // n)) for i, m, n in zip(place, given, size, strict=True)]
        cells = list(product(*areas))
        result[(..., *place)] = sum(features[(..., *cell)] for cell in cells) / len(cells)
    return result


def on_one_grid(student, teacher):
    size = [min(pair) for pair in zip(student.shape[2:], teacher.shape[2:], strict=True)]
    return shrunk(student, size), shrunk(teacher, size)


def norm(values):
    return math.sqrt(math.fsum(value * value for value in values))


def normalized(values):
    size = norm(values)
    return [value / size if size else 0.0 for value in values]


def dot(first, second):
    return math.fsum(a * b for a, b in zip(first, second, strict=True))


def vectors(features):
    return features.flatten(1).tolist()


def slow_at(student, teacher, power=2.0):
    def attention(features):
        return [
            normalized(
                [
                    math.fsum(abs(float(x)) ** power for x in image[(slice(None), *place)])
                    for place in positions(features)
                ]
            )
            for image in features
        ]

    pairs = zip(*map(attention, on_one_grid(student, teacher)), strict=True)
    squares = [(a - b) ** 2 for ours, theirs in pairs for a, b in zip(ours, theirs, strict=True)]
    return math.fsum(squares) / len(squares)


def slow_sp(student, teacher):
    def similarities(features):
        rows = vectors(features)
        return [normalized([dot(a, b) for b in rows]) for a in rows]

    ours, theirs = similarities(student), similarities(teacher)
    b = len(ours)
    return math.fsum((ours[i][j] - theirs[i][j]) ** 2 for i in range(b) for j in range(b)) / b**2


def slow_pkt(student, teacher, epsilon=1e-7):
    def probabilities(features):
        rows = [[value / (norm(row) + epsilon) for value in row] for row in vectors(features)]
        kernel = [[(dot(a, b) + 1) / 2 for b in rows] for a in rows]
        return [[value / math.fsum(row) for value in row] for row in kernel]

    ours, theirs = probabilities(student), probabilities(teacher)
    b = range(len(ours))
    terms = [theirs[i][j] * math.log((theirs[i][j] + epsilon) / (ours[i][j] + epsilon)) for i in b for j in b]
    return math.fsum(terms) / len(terms)


def huber(difference):
    return difference**2 / 2 if abs(difference) < 1 else abs(difference) - 0.5


def slow_rkd(student, teacher, distance=25.0, angle=50.0):
    def distances(rows):
        apart = [[norm([x - y for x, y in zip(a, b, strict=True)]) for b in rows] for a in rows]
        above = [value for row in apart for value in row if value > 0]
        return [value / (math.fsum(above) / len(above)) for row in apart for value in row]

    def angles(rows):
        found = []
        for a in rows:
            directions = [normalized([x - y for x, y in zip(b, a, strict=True)]) for b in rows]
            found += [dot(b, c) for b in directions for c in directions]
        return found

    def mean(of):
        pairs = list(zip(of(vectors(student)), of(vectors(teacher)), strict=True))
        return math.fsum(huber(a - b) for a, b in pairs) / len(pairs)

    return distance * mean(distances) + angle * mean(angles)


def slow_nst(student, teacher):
    def channels(features):
        return [[normalized(channel.flatten().tolist()) for channel in image] for image in features]

    def kernel(first, second):
        return math.fsum(dot(a, b) ** 2 for a in first for b in second) / (len(first) * len(second))

    pairs = list(zip(*map(channels, on_one_grid(student, teacher)), strict=True))
    return math.fsum(kernel(t, t) + kernel(s, s) - 2 * kernel(s, t) for s, t in pairs) / len(pairs)


def slow_cc(student, teacher, kernel="gaussian", gamma=0.4, order=2):
    if kernel == "adjacent":
        apart = (student - teacher).abs().flatten(1).tolist()
        return math.fsum(dot(a, b) for a, b in pairwise(apart)) / (len(apart) - 1)

    def correlation(a, b):
        cosine = dot(normalized(a), normalized(b))
        return math.exp(-2 * gamma) * sum((2 * gamma) ** p / math.factorial(p) * cosine**p for p in range(order + 1))

    def matrix(features):
        rows = vectors(features)
        return [correlation(a, b) for a in rows for b in rows]

    pairs = list(zip(matrix(student), matrix(teacher), strict=True))
    return math.fsum((a - b) ** 2 for a, b in pairs) / len(pairs)
