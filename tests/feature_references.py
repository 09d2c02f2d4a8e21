"""Slow, obviously right references of losses on features: loops in float64, written from the papers and their codes.

Each takes the features of one pair of layers, as float64 tensors [B, ...] that may differ in size, and the options of its loss, and gives
the value of the whole batch.
"""

import copy
import math
from itertools import pairwise, product

import numpy as np
import pytest
import torch
from torch import nn

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d)
TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d)


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


def array(tensor):
    return tensor.detach().double()


def convolved(layer, maps):
    """A convolution that keeps the grid, position by position."""
    weight, size = array(layer.weight), layer.kernel_size
    transposed = isinstance(layer, TRANSPOSED)
    result = torch.zeros(len(maps), layer.out_channels, *maps.shape[2:], dtype=torch.float64)
    for place in product(*map(range, maps.shape[2:])):
        for offset in product(*map(range, size)):
            shift = [(k // 2 - o if transposed else o - k // 2) for o, k in zip(offset, size, strict=True)]
            source = [p + d for p, d in zip(place, shift, strict=True)]
            if all(0 <= x < n for x, n in zip(source, maps.shape[2:], strict=True)):
                taps = weight[(..., *offset)]
                taps = taps.T if transposed else taps
                result[(..., *place)] += torch.stack([taps @ row for row in maps[(..., *source)]])
    if layer.bias is not None:
        result += array(layer.bias).view(1, -1, *(1,) * len(size))
    return result


def batch_normalized(layer, maps):
    result = torch.empty_like(maps)
    for c in range(maps.shape[1]):
        values = maps[:, c]
        mean = values.sum() / values.numel()
        variance = ((values - mean) ** 2).sum() / values.numel()
        result[:, c] = (values - mean) / math.sqrt(variance + layer.eps) * array(layer.weight)[c] + array(layer.bias)[c]
    return result


def run(layers, maps):
    """A sequence of layers, each by its definition."""
    for layer in layers:
        if isinstance(layer, CONVOLUTIONS):
            maps = convolved(layer, maps)
        elif isinstance(layer, nn.modules.batchnorm._BatchNorm):
            maps = batch_normalized(layer, maps)
        elif isinstance(layer, nn.LeakyReLU):
            maps = torch.where(maps > 0, maps, layer.negative_slope * maps)
        elif isinstance(layer, nn.ReLU):
            maps = torch.where(maps > 0, maps, 0.0)
        else:
            maps = torch.stack([array(layer.weight) @ row + array(layer.bias) for row in maps])
    return maps


def as_map(features):
    return features[..., None] if features.dim() == 2 else features


def mean(tensor):
    return math.fsum(tensor.flatten().tolist()) / tensor.numel()


def slow_vid(students, teachers, module, initial_variance=5.0):
    total = 0.0
    for student, teacher, layers, raw in zip(students, teachers, module.means, module.variances, strict=True):
        student, teacher = on_one_grid(as_map(student), as_map(teacher))
        foretold = run(layers, student)
        terms = []
        for c, a in enumerate(array(raw).tolist()):
            assert math.log(1 + math.exp(a)) + 1e-5 == pytest.approx(initial_variance, rel=1e-6)
            variance = math.log(1 + math.exp(a)) + 1e-5
            apart = (foretold[:, c] - teacher[:, c]).flatten().tolist()
            terms += [(x**2 / variance + math.log(variance)) / 2 for x in apart]
        total += math.fsum(terms) / len(terms)
    return total


def slow_fsp(students, teachers):
    def flows(layers):
        found = []
        for first, second in pairwise(layers):
            first, second = on_one_grid(first, second)
            cells = positions(first)
            found.append([
                math.fsum(float(first[(n, a, *p)] * second[(n, b, *p)]) for p in cells) / len(cells)
                for n in range(len(first)) for a in range(first.shape[1]) for b in range(second.shape[1])
            ])  # fmt: skip
        return found

    pairs = zip(flows(students), flows(teachers), strict=True)
    return sum(math.fsum((a - b) ** 2 for a, b in zip(*pair, strict=True)) / len(pair[0]) for pair in pairs)


def slow_ab(students, teachers, margin=1.0):
    total = 0.0
    for number, (student, teacher) in enumerate(zip(students, teachers, strict=True), 1):
        for s, t in zip(student.flatten().tolist(), teacher.flatten().tolist(), strict=True):
            if t > 0 and s <= margin:
                total += (s - margin) ** 2 / 2 ** (len(students) - number)
            elif t <= 0 and s > -margin:
                total += (s + margin) ** 2 / 2 ** (len(students) - number)
    return total / len(students[0]) / 1000 * 3


def slow_ft(students, teachers, module, rate=0.5, channels="keep", reconstruction=0.002):
    student, teacher = on_one_grid(students[0], teachers[0])
    factor = run(module.paraphraser, teacher)
    assert factor.shape[1] == int(teacher.shape[1] * rate)

    def reduced(factors):
        if channels == "mean_square":
            factors = torch.stack([sum(c**2 for c in image) / len(image) for image in factors])
        return [normalized(row) for row in factors.flatten(1).tolist()]

    pairs = zip(reduced(run(module.translator, student)), reduced(factor), strict=True)
    apart = [abs(a - b) for ours, theirs in pairs for a, b in zip(ours, theirs, strict=True)]
    return math.fsum(apart) / len(apart) + reconstruction * mean((run(module.reconstruction, factor) - teacher) ** 2)


def drawn_for(sample, samples, labels, negatives, seed):
    """Numbers of the negatives of a sample: drawn with replacement from those not known to be of its class, or without a label from all,
    where the next one stands for the sample itself."""
    allowed = [p for p in range(samples) if sample not in labels or labels.get(p) != labels[sample]]
    drawn = [allowed[place] for place in np.random.default_rng(seed).integers(len(allowed), size=negatives)]
    return [(p + 1) % samples if p == sample else p for p in drawn]


def slow_crd(
    students, teachers, module, ids, step, targets=None, width=128, negatives=16384, temperature=0.07, momentum=0.5
):
    """On a module that has not been called yet, with samples 0 to N - 1; a copy is called to see what it remembers afterwards. Which negatives are
    drawn is written out here."""
    module = copy.deepcopy(module)
    rows = {who: array(memory.rows).tolist() for who, memory in module.memories.items()}
    samples, embedded = len(rows["student"]), {}
    for who, features in (("student", students[0]), ("teacher", teachers[0])):
        layer = module.embeddings[who]
        embedded[who] = [
            normalized(
                [dot(w, x) + float(b) for w, b in zip(array(layer.weight).tolist(), array(layer.bias), strict=True)]
            )
            for x in features.flatten(1).tolist()
        ]
        assert len(embedded[who][0]) == width
    labels = {} if targets is None else dict(zip(ids.tolist(), targets.tolist(), strict=True))
    places = [[n, *drawn_for(n, samples, labels, negatives, (int(module.seed), step, n))] for n in ids.tolist()]
    module(students, teachers, ids, step, targets)
    total = 0.0
    for who, other in (("student", "teacher"), ("teacher", "student")):
        likely = [
            [math.exp(dot(v, rows[other][p]) / temperature) for p in row]
            for v, row in zip(embedded[who], places, strict=True)
        ]
        z = math.fsum(x for row in likely for x in row) / (len(likely) * (negatives + 1)) * samples
        for sample, row, chosen in zip(ids.tolist(), likely, places, strict=True):
            assert sample not in chosen[1:] and len(chosen) == negatives + 1
            noise = negatives / samples
            total -= math.log(row[0] / z / (row[0] / z + noise + 1e-7))
            total -= math.fsum(math.log(noise / (p / z + noise + 1e-7)) for p in row[1:])
        for sample, v in zip(ids.tolist(), embedded[who], strict=True):
            kept = normalized([momentum * a + (1 - momentum) * b for a, b in zip(rows[who][sample], v, strict=True)])
            assert array(module.memories[who].rows)[sample].tolist() == pytest.approx(kept, rel=1e-6)
    return total / len(ids)


def slow_ofd(students, teachers, module):
    total = 0.0
    for number, (student, teacher) in enumerate(zip(students, teachers, strict=True)):
        ours, theirs = run(module.connectors[number], student), shrunk(teacher, student.shape[2:])
        for c in range(teacher.shape[1]):
            negative = [x for x in teacher[:, c].flatten().tolist() if x < 0]
            margin = math.fsum(negative) / len(negative)
            for s, t in zip(ours[:, c].flatten().tolist(), theirs[:, c].flatten().tolist(), strict=True):
                weight = 1 / 2 ** (len(students) - number - 1) / len(student)
                if t > 0:
                    total += weight * (s - t) ** 2
                elif t > margin:
                    total += weight * (s - t) ** 2 * (s > t)
                else:
                    total += weight * (s - margin) ** 2 * (s > margin)
    return total


def enlarged(maps, size):
    """By the nearest neighbour."""
    result = torch.empty(*maps.shape[:2], *size, dtype=torch.float64)
    for place in product(*map(range, size)):
        source = [p * m // n for p, m, n in zip(place, maps.shape[2:], size, strict=True)]
        result[(..., *place)] = maps[(..., *source)]
    return result


def slow_reviewkd(students, teachers, module):
    students, teachers = ([x if x.dim() == 4 else x[..., None, None] for x in each] for each in (students, teachers))
    total, behind = 0.0, None
    for fusion, student, teacher in list(zip(module.fusions, students, teachers, strict=True))[::-1]:
        features = run(fusion.inwards, student)
        if behind is not None:
            behind = enlarged(behind, features.shape[2:])
            attention = convolved(fusion.attention, torch.cat([features, behind], 1))
            shares = 1 / (1 + (-attention).exp())
            features = features * shares[:, :1] + behind * shares[:, 1:]
        behind = enlarged(features, teacher.shape[2:])
        made = run(fusion.outwards, behind)
        sides = [side for side in (4, 2, 1) if side < teacher.shape[2]]
        shares = [1.0] + [0.5 ** (k + 1) for k in range(len(sides))]
        grids = [(made, teacher)] + [(shrunk(made, (n, n)), shrunk(teacher, (n, n))) for n in sides]
        total += sum(w * mean((a - b) ** 2) for w, (a, b) in zip(shares, grids, strict=True)) / sum(shares)
    return total


def slow_semckd(students, teachers, module):
    size, batch = module.batch_size, len(students[0])

    def embedded(layer, features):
        rows = vectors(features)
        similar = [[dot(a, b) for b in rows] + [0.0] * (size - batch) for a in rows]
        return [normalized(row) for row in run(layer, torch.tensor(similar, dtype=torch.float64)).tolist()]

    queries = [embedded(layer, x) for layer, x in zip(module.queries, students, strict=True)]
    keys = [embedded(layer, x) for layer, x in zip(module.keys, teachers, strict=True)]
    total = 0.0
    for number, student in enumerate(students):
        values = []
        for projection, teacher in zip(module.projections[number], teachers, strict=True):
            ours, theirs = on_one_grid(student, teacher)
            values.append([mean(x) for x in (run(projection, ours) - theirs) ** 2])
        for n in range(batch):
            weights = [math.exp(dot(queries[number][n], key[n])) for key in keys]
            total += math.fsum(w / math.fsum(weights) * v[n] for w, v in zip(weights, values, strict=True))
    return total / batch / len(students)


def slow_srrl(students, teachers, module, teacher_logits, teacher_classifier):
    weight, bias = teacher_classifier
    read = run(module.connector, as_map(students[0])).flatten(2).mean(2)
    theirs = as_map(teachers[0]).flatten(2).mean(2)
    said = torch.stack([weight @ row + bias for row in read])
    return mean((read - theirs) ** 2) + mean((said - teacher_logits) ** 2)


def slow_catkd(student, teacher, student_classifier, teacher_classifier, resolution=2, normalize=True):
    def attention(features, weight):
        found = []
        for image in features:
            for row in weight:
                cam = sum(w * channel for w, channel in zip(row, image, strict=True))
                values = shrunk(cam[None, None], (resolution,) * cam.dim()).flatten().tolist()
                found += normalized(values) if normalize else values
        return found

    pairs = list(zip(attention(student, student_classifier[0]), attention(teacher, teacher_classifier[0]), strict=True))
    return math.fsum((a - b) ** 2 for a, b in pairs) / len(pairs)


def softmax(row):
    largest = max(row)
    values = [math.exp(x - largest) for x in row]
    return [x / math.fsum(values) for x in values]


def heads_of(sequence, heads):
    """[L, D] as `heads` lists of L vectors."""
    width = sequence.shape[-1] // heads
    return [sequence[:, h * width : (h + 1) * width].tolist() for h in range(heads)]


def slow_relations(student, teacher, heads=48, parts=1):
    def relations(sequence):
        return [
            [softmax([dot(a, b) / math.sqrt(len(a)) for b in rows]) for a in rows]
            for rows in heads_of(sequence, heads)
        ]  # fmt: skip

    total = 0.0
    for ours, theirs in zip(student.chunk(parts, -1), teacher.chunk(parts, -1), strict=True):
        values = []
        for s, t in zip(ours, theirs, strict=True):
            for q_head, p_head in zip(relations(s), relations(t), strict=True):
                for q, p in zip(q_head, p_head, strict=True):
                    values.append(math.fsum(b * math.log(b / a) for a, b in zip(q, p, strict=True)))
        total += math.fsum(values) / len(values)
    return total


def slow_scores(students, teachers, heads=12, parts=1):
    def layers(captured):
        if parts > 1:
            return [features.chunk(parts, -1)[:2] for features in captured]
        return list(zip(captured[: len(captured) // 2], captured[len(captured) // 2 :], strict=True))

    def scores(queries, keys):
        return [
            dot(a, b) / math.sqrt(len(a))
            for q, k in zip(queries, keys, strict=True)
            for q_rows, k_rows in zip(heads_of(q, heads), heads_of(k, heads), strict=True)
            for a in q_rows
            for b in k_rows
        ]

    total = 0.0
    for ours, theirs in zip(layers(students), layers(teachers), strict=True):
        pairs = list(zip(scores(*ours), scores(*theirs), strict=True))
        total += math.fsum((a - b) ** 2 for a, b in pairs) / len(pairs)
    return total


def slow_hidden(student, teacher):
    apart = [(s - t) ** 2 for s, t in zip(student.flatten().tolist(), teacher.flatten().tolist(), strict=True)]
    return math.fsum(apart) / len(apart)


def slow_simkd(student, teacher):
    return slow_hidden(*on_one_grid(as_map(student), as_map(teacher)))


def slow_cosine(student, teacher):
    pairs = zip(vectors(student), vectors(teacher), strict=True)
    return math.fsum(1 - dot(normalized(s), normalized(t)) for s, t in pairs) / len(student)
