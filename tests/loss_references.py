"""Slow references of losses on logits: one position at a time, lists of Python floats, written from the papers' equations.

student, teacher: logits of one position; target: its label.
"""

import math


def log_softmax(row: list[float], temperature: float = 1.0) -> list[float]:
    largest = max(row)
    scaled = [(value - largest) / temperature for value in row]
    normaliser = math.log(math.fsum(math.exp(value) for value in scaled))
    return [value - normaliser for value in scaled]


def slow_ce(student: list[float], target: int, label_smoothing: float = 0.0) -> float:
    logs, classes = log_softmax(student), len(student)
    wanted = [label_smoothing / classes + (1 - label_smoothing) * (c == target) for c in range(classes)]
    return -math.fsum(q * log for q, log in zip(wanted, logs, strict=True))


def slow_kd(student: list[float], teacher: list[float], temperature: float = 4.0) -> float:
    p, q = log_softmax(teacher, temperature), log_softmax(student, temperature)
    return temperature**2 * math.fsum(math.exp(a) * (a - b) for a, b in zip(p, q, strict=True))


def slow_kd_topk(student: list[float], ids: list[int], log_p: list[float], k: int = 16) -> float:
    q = [math.exp(value) for value in log_softmax(student)]
    p = [math.exp(value) for value in log_p]
    pairs = [(one, q[number]) for one, number in zip(p, ids, strict=True)]
    rest = 1 - math.fsum(p)
    pairs.append((rest, math.fsum(value for number, value in enumerate(q) if number not in ids)))
    return math.fsum(one * math.log(one / other) for one, other in pairs if one > 0)


def buckets(student: list[float], ids: list[int], log_p: list[float]) -> tuple[list[float], list[float]]:
    """Probabilities (teacher's, student's) of the teacher's likeliest classes and of all others together."""
    p, q = [math.exp(value) for value in log_p], [math.exp(value) for value in log_softmax(student)]
    others = math.fsum(value for number, value in enumerate(q) if number not in ids)
    return [*p, 1 - math.fsum(p)], [*(q[number] for number in ids), others]


def slow_topk(student, ids, log_p, kind: str, k: int = 16, beta: float = 0.5, skew: float = 0.1) -> float:
    p, q = buckets(student, ids, log_p)
    if kind == "total_variation":
        return math.fsum(abs(a - b) for a, b in zip(p, q, strict=True)) / 2
    if kind == "reverse":
        return divergence(q, p)
    if kind == "jsd":
        m = [beta * a + (1 - beta) * b for a, b in zip(p, q, strict=True)]
        return beta * divergence(p, m) + (1 - beta) * divergence(q, m)
    first, second = (p, q) if kind == "skewed" else (q, p)
    return divergence(first, [skew * a + (1 - skew) * b for a, b in zip(first, second, strict=True)])


def slow_akl_topk(student, ids, log_p, head: float = 0.5, k: int = 16) -> float:
    p, q = buckets(student, ids, log_p)
    gaps = [abs(a - b) for a, b in zip(p, q, strict=True)]
    inside = [c for c in range(len(ids)) if c == 0 or math.fsum(p[: c + 1]) <= head]  # never the last bucket
    weight = math.fsum(gaps[c] for c in inside) / math.fsum(gaps)
    return weight * divergence(p, q) + (1 - weight) * divergence(q, p)


def slow_kl_reverse(student: list[float], teacher: list[float], temperature: float = 1.0) -> float:
    return slow_kd(teacher, student, temperature)


def slow_jsd(student: list[float], teacher: list[float], beta: float = 0.5, temperature: float = 1.0) -> float:
    p, q = ([math.exp(value) for value in log_softmax(row, temperature)] for row in (teacher, student))
    m = [beta * a + (1 - beta) * b for a, b in zip(p, q, strict=True)]
    of_p, of_q = (math.fsum(a * math.log(a / b) for a, b in zip(x, m, strict=True) if a > 0) for x in (p, q))
    return temperature**2 * (beta * of_p + (1 - beta) * of_q)


def slow_vocabulary_kd(student, teacher, kind="forward", temperature: float = 1.0, beta=0.5, chunk=None) -> float:
    if kind == "jsd":
        return slow_jsd(student, teacher, beta, temperature)
    return (slow_kd if kind == "forward" else slow_kl_reverse)(student, teacher, temperature)


def slow_vocabulary_ce(student: list[float], target: int, label_smoothing: float = 0.0, chunk=None) -> float:
    return slow_ce(student, target, label_smoothing)


def slow_vocabulary_ce_kd(student, teacher, target, ce=0.5, kd=0.5, label_smoothing=0.0, **options) -> float:
    return ce * slow_ce(student, target, label_smoothing) + kd * slow_vocabulary_kd(student, teacher, **options)


def softmax(row: list[float], temperature: float = 1.0) -> list[float]:
    return [math.exp(value) for value in log_softmax(row, temperature)]


def divergence(p: list[float], q: list[float]) -> float:
    """Of probabilities."""
    return math.fsum(a * math.log(a / b) for a, b in zip(p, q, strict=True) if a > 0)


def slow_standardized(row: list[float]) -> list[float]:
    mean = math.fsum(row) / len(row)
    deviation = math.sqrt(math.fsum((z - mean) ** 2 for z in row) / (len(row) - 1))
    return [(z - mean) / (1e-7 + deviation) for z in row]


def slow_kd_standardized(student, teacher, temperature: float, standardize: bool) -> float:
    assert standardize
    return slow_kd(slow_standardized(student), slow_standardized(teacher), temperature)


def slow_dkd(student, teacher, target, alpha=1.0, beta=8.0, temperature: float = 4.0) -> float:
    p, q = softmax(teacher, temperature), softmax(student, temperature)
    tckd = divergence([p[target], 1 - p[target]], [q[target], 1 - q[target]])
    rest_p, rest_q = ([value / (1 - x[target]) for c, value in enumerate(x) if c != target] for x in (p, q))
    return temperature**2 * (alpha * tckd + beta * divergence(rest_p, rest_q))


def slow_nkd(student, teacher, target, gamma=1.5, temperature: float = 1.0) -> float:
    value = -softmax(teacher)[target] * log_softmax(student)[target]
    rest = [[z for c, z in enumerate(row) if c != target] for row in (student, teacher)]
    q, p = log_softmax(rest[0], temperature), softmax(rest[1], temperature)
    return value - gamma * temperature**2 * math.fsum(a * b for a, b in zip(p, q, strict=True))


def slow_wsld(student, teacher, target, temperature: float = 2.0) -> float:
    ratio = log_softmax(student)[target] / (log_softmax(teacher)[target] - 1e-7)
    p, q = softmax(teacher, temperature), log_softmax(student, temperature)
    return (1 - math.exp(-ratio)) * temperature**2 * -math.fsum(a * b for a, b in zip(p, q, strict=True))


def slow_ttm(student, teacher, exponent: float = 0.1) -> float:
    powers = [value**exponent for value in softmax(teacher)]
    return divergence([value / math.fsum(powers) for value in powers], softmax(student))


def slow_wttm(student, teacher, exponent: float = 0.2) -> float:
    return math.fsum(value**exponent for value in softmax(teacher)) * slow_ttm(student, teacher, exponent)


def slow_tf_kd(student, target, correct=0.99, temperature: float = 20.0) -> float:
    others = (1 - correct) / (len(student) - 1)
    designed = [correct if c == target else others for c in range(len(student))]
    return divergence(softmax(designed, temperature), softmax(student))


def slow_hard(student, teacher) -> float:
    return -log_softmax(student)[max(range(len(teacher)), key=lambda c: teacher[c])]


def slow_skewed(student, teacher, skew: float = 0.1, temperature: float = 1.0) -> float:
    p, q = softmax(teacher, temperature), softmax(student, temperature)
    return temperature**2 * divergence(p, [skew * a + (1 - skew) * b for a, b in zip(p, q, strict=True)])


def slow_skewed_reverse(student, teacher, skew: float = 0.1, temperature: float = 1.0) -> float:
    return slow_skewed(teacher, student, skew, temperature)


def slow_tvd(student, teacher) -> float:
    return math.fsum(abs(a - b) for a, b in zip(softmax(teacher), softmax(student), strict=True)) / 2


def slow_uld(student, teacher) -> float:
    p, q = (sorted(softmax(side), reverse=True) for side in (teacher, student))
    width = max(len(p), len(q))
    p, q = (side + [0.0] * (width - len(side)) for side in (p, q))
    return math.fsum(abs(a - b) for a, b in zip(p, q, strict=True))


def slow_aligned_kd(student, teacher, target, temperature: float = 1.0) -> float:
    return slow_kd(student, teacher, temperature=temperature)


def slow_akl(student, teacher, head: float = 0.5) -> float:
    p, q = softmax(teacher), softmax(student)
    order = sorted(range(len(p)), key=lambda c: -p[c])
    first = [c for place, c in enumerate(order) if place == 0 or math.fsum(p[k] for k in order[: place + 1]) <= head]
    gap, whole = (math.fsum(abs(p[c] - q[c]) for c in part) for part in (first, order))
    return gap / whole * divergence(p, q) + (1 - gap / whole) * divergence(q, p)


def slow_divergence(student, teacher, kind: str, temperature=1.0, chunk=None, skew=0.1, head=0.5) -> float:
    if kind in ("skewed", "skewed_reverse"):
        return (slow_skewed if kind == "skewed" else slow_skewed_reverse)(student, teacher, skew, temperature)
    return slow_tvd(student, teacher) if kind == "total_variation" else slow_akl(student, teacher, head)


def correlation(first: list[float], second: list[float]) -> float:
    first, second = ([value - math.fsum(row) / len(row) for value in row] for row in (first, second))
    lengths = [math.sqrt(math.fsum(value * value for value in row)) for row in (first, second)]
    return math.fsum(a * b for a, b in zip(first, second, strict=True)) / (lengths[0] * lengths[1] + 1e-8)


def slow_dist(students, teachers, beta=1.0, gamma=1.0, temperature: float = 1.0) -> list[float]:
    """Of all samples of a batch."""
    q, p = ([softmax(row, temperature) for row in rows] for rows in (students, teachers))
    classes = range(len(q[0]))
    apart = [1 - correlation([row[c] for row in q], [row[c] for row in p]) for c in classes]
    intra = math.fsum(apart) / len(apart)
    inter = [1 - correlation(a, b) for a, b in zip(q, p, strict=True)]
    return [temperature**2 * (beta * value + gamma * intra) for value in inter]


def slow_mlkd(students, teachers, temperatures=(2.0, 3.0, 4.0, 5.0, 6.0)) -> list[float]:
    """Of all samples of a batch."""
    samples, classes, values = range(len(students)), range(len(students[0])), [0.0] * len(students)
    for temperature in temperatures:
        q, p = ([softmax(row, temperature) for row in rows] for rows in (students, teachers))

        def alike(x, i, j):
            return math.fsum(x[i][c] * x[j][c] for c in classes)

        def together(x, c, d):
            return math.fsum(x[i][c] * x[i][d] for i in samples)

        of_classes = math.fsum((together(p, c, d) - together(q, c, d)) ** 2 for c in classes for d in classes)
        for i in samples:
            values[i] += slow_kd(students[i], teachers[i], temperature) + of_classes / len(classes)
            values[i] += math.fsum((alike(p, i, j) - alike(q, i, j)) ** 2 for j in samples)
    return values


def entropy_of_softmax(row: list[float]) -> float:
    return -math.fsum(math.exp(log) * log for log in log_softmax(row))
