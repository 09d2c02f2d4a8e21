"""Losses from hidden states and output layers: equal to the dense terms in values and gradients, without their arrays."""

import inspect
from itertools import pairwise

import pytest
import torch
from torch.nn.functional import linear
from torch.utils._python_dispatch import TorchDispatchMode

from kdrun.objectives.ce import ce
from kdrun.objectives.chunked import ce_kd_chunked
from kdrun.objectives.jsd import jsd
from kdrun.objectives.kd import kd
from kdrun.objectives.kl_reverse import kl_reverse
from kdrun.objectives.terms import build_objective
from kdrun.objectives.vocabulary import Settings, rows_left_out, vocabulary_values

N, V, D, D2 = 23, 61, 8, 12
LEARN = ("student_hidden", "student_head", "student_bias")
NAMES = ("student_hidden", "student_head", "teacher_hidden", "teacher_head", "targets", "student_bias", "teacher_bias")
DENSE = {"forward": kd, "reverse": kl_reverse, "jsd": jsd}
CASES = {
    "ce": {"ce": 1.0},
    "ce_smoothed": {"ce": 2.0, "label_smoothing": 0.1},
    "forward": {"kd": 1.0},
    "forward_t3": {"kd": 1.0, "temperature": 3.0},
    "reverse": {"kd": 0.7, "kind": "reverse", "temperature": 2.0},
    "jsd": {"kd": 1.0, "kind": "jsd", "beta": 0.3},
    "ce_forward": {"ce": 0.4, "kd": 0.6, "label_smoothing": 0.1},
    "ce_forward_t2": {"ce": 0.4, "kd": 0.6, "temperature": 2.0},
    "ce_reverse": {"ce": 0.4, "kd": 0.6, "kind": "reverse"},
    "ce_jsd": {"ce": 0.4, "kd": 0.6, "kind": "jsd", "temperature": 2.0, "label_smoothing": 0.1},
}
every_case = pytest.mark.parametrize("options", CASES.values(), ids=CASES)


def made(seed: int = 0, dtype=torch.float32, positions: int = N, rows: int = V, taught: int = V, bias=True) -> dict:
    random = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=random, dtype=torch.float64).to(dtype)

    return {
        "student_hidden": normal(positions, D).requires_grad_(),
        "student_head": normal(rows, D).requires_grad_(),
        "teacher_hidden": normal(positions, D2),
        "teacher_head": normal(taught, D2),
        "targets": torch.randint(min(rows, taught), (positions,), generator=random),
        "student_bias": normal(rows).requires_grad_() if bias else None,
        "teacher_bias": normal(taught) if bias else None,
    }


def dense(given: dict, ce_factor=0.0, kd_factor=0.0, kind="forward", label_smoothing=0.0, rows=None, **options):
    """The same values by the dense terms on logits of the first `rows` rows."""
    student = linear(given["student_hidden"], given["student_head"], given["student_bias"])[..., :rows]
    teacher = linear(given["teacher_hidden"], given["teacher_head"], given["teacher_bias"])[..., :rows]
    options = {"temperature": 1.0, **options}
    value = kd_factor * DENSE[kind](student, teacher, **options) if kd_factor else 0.0
    return value + (ce_factor * ce(student, given["targets"], label_smoothing=label_smoothing) if ce_factor else 0.0)


def by_dense(given: dict, options: dict, rows: int | None = None) -> torch.Tensor:
    renamed = {{"ce": "ce_factor", "kd": "kd_factor"}.get(name, name): value for name, value in options.items()}
    return dense(given, rows=rows, **renamed)


def by_chunks(given: dict, options: dict, **more) -> torch.Tensor:
    more.setdefault("chunk", 5)
    return vocabulary_values(*(given[name] for name in NAMES), settings=Settings(**options, **more))


def gradients(value: torch.Tensor, given: dict) -> list[torch.Tensor]:
    learning = [given[name] for name in LEARN if given[name] is not None and given[name].requires_grad]
    return list(torch.autograd.grad(value, learning))


def close(found, expected, tolerance: float = 1e-5) -> None:
    for one, other in zip(found, expected, strict=True):
        assert one.shape == other.shape and one.dtype == other.dtype
        assert (one - other).abs().max() <= tolerance * other.abs().max()


@every_case
@pytest.mark.parametrize("weights", ["equal", "of each position", "some zero"])
@pytest.mark.parametrize("recompute", [False, True])
def test_values_and_gradients_are_those_of_the_dense_form(options, weights, recompute):
    given = made()
    factors = {"equal": torch.full((N,), 1 / N), "of each position": torch.rand(N), "some zero": torch.arange(N) % 3.0}
    expected, found = by_dense(given, options), by_chunks(given, options, recompute=recompute)
    close([found.detach()], [expected.detach()])
    close(gradients((found * factors[weights]).sum(), given), gradients((expected * factors[weights]).sum(), given))


@every_case
@pytest.mark.parametrize("chunk", [1, 7, N, 1000])
def test_the_size_of_a_chunk_changes_nothing(options, chunk):
    given = made(dtype=torch.float64)
    expected, found = by_chunks(given, options, chunk=N), by_chunks(given, options, chunk=chunk)
    close([found.detach()], [expected.detach()], 1e-12)
    close(gradients(found.sum(), given), gradients(expected.sum(), given), 1e-12)


@every_case
def test_the_gradient_is_the_derivative(options):
    given = made(dtype=torch.float64, positions=4, rows=6, taught=6)
    learning = [given[name] for name in LEARN]
    assert torch.autograd.gradcheck(
        lambda *tensors: by_chunks({**given, **dict(zip(LEARN, tensors, strict=True))}, options, chunk=3), learning
    )


@every_case
@pytest.mark.parametrize(("rows", "taught"), [(61, 64), (64, 61)])
def test_rows_that_one_network_has_alone_are_left_out(options, rows, taught):
    given = made(rows=rows, taught=taught)
    if not options.get("kd"):
        pytest.skip("without a teacher all rows of the student count")
    expected, found = by_dense(given, options, rows=61), by_chunks(given, options)
    close([found.detach()], [expected.detach()])
    by_rows = gradients(found.mean(), given)
    close(by_rows, gradients(expected.mean(), given))
    assert not by_rows[1][61:].any() and not by_rows[2][61:].any()


def test_how_many_rows_are_left_out_is_told():
    small, large = torch.zeros(151_936, 1), torch.zeros(152_064, 1)
    assert rows_left_out(small, large) == (0, 128)
    assert rows_left_out(large, small) == (128, 0)
    assert rows_left_out(small, small) == (0, 0)


@every_case
def test_a_second_backward_pass_gives_the_same(options):
    given = made()
    value = by_chunks(given, options).mean()
    learning = [given[name] for name in LEARN]
    first = [found.clone() for found in torch.autograd.grad(value, learning, retain_graph=True)]
    close(torch.autograd.grad(value, learning), first, 1e-6)


@pytest.mark.parametrize("frozen", [("student_head", "student_bias"), ("student_hidden",), ("student_bias",)])
def test_what_does_not_learn_gets_no_gradient_and_the_rest_the_same(frozen):
    given = made()
    options, weights = CASES["ce_forward"], torch.rand(N)
    for name in frozen:
        given[name].requires_grad_(False)
    close(
        gradients((by_chunks(given, options) * weights).sum(), given),
        gradients((by_dense(given, options) * weights).sum(), given),
    )


def test_an_output_layer_tied_to_what_made_the_hidden_states_gets_both_gradients():
    given = made(bias=False)
    ids = torch.arange(N) % V

    def tied(values) -> torch.Tensor:
        return values({**given, "student_hidden": given["student_head"][ids]}, CASES["ce_forward"]).mean()

    found, expected = (torch.autograd.grad(tied(form), given["student_head"]) for form in (by_chunks, by_dense))
    close(found, expected)


@every_case
def test_without_gradients_nothing_is_computed_ahead(options):
    given = made()
    with torch.no_grad():
        values = by_chunks(given, options)
    assert not values.requires_grad
    close([values], [by_dense(given, options).detach()])


@pytest.mark.parametrize(
    "options", [o for o in CASES.values() if not o.get("ce")], ids=lambda o: o.get("kind", "forward")
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_equal_networks_give_exactly_zero_and_no_gradient(options, dtype):
    given = made(dtype=dtype)
    for name in LEARN:
        given[name.replace("student", "teacher")] = given[name].detach().clone()
    value = by_chunks(given, options)
    assert not value.any()
    assert not any(found.any() for found in gradients((value * torch.rand(N)).sum(), given))


@every_case
def test_logits_of_minus_infinity_in_both_networks_give_no_nan(options):
    given = made()
    excluded = torch.arange(V) >= 50
    given["targets"] %= 50
    for who in ("student", "teacher"):
        given[f"{who}_bias"] = given[f"{who}_bias"].detach().masked_fill(excluded, -torch.inf)
    if options.get("label_smoothing"):
        options = {**options, "label_smoothing": 0.0}  # it asks for probability where there can be none
    values = by_chunks(given, options)
    close([values.detach()], [by_dense(given, options, rows=50).detach()])
    assert all(found.isfinite().all() for found in gradients(values.mean(), given))


@pytest.mark.parametrize("kind", DENSE)
@pytest.mark.parametrize("who", ["student", "teacher"])
def test_a_token_that_one_network_excludes_gives_no_nan_and_no_large_number_in_place_of_infinity(kind, who):
    given = made()
    given[f"{who}_bias"] = given[f"{who}_bias"].detach().clone()
    given[f"{who}_bias"][3] = -torch.inf
    if (kind, who) in (("forward", "student"), ("reverse", "teacher")):
        with pytest.raises(FloatingPointError, match=f"the {who} gives no probability"):
            by_chunks(given, {"kd": 1.0, "kind": kind})
        return
    values = by_chunks(given, {"kd": 1.0, "kind": kind})
    close([values.detach()], [by_dense(given, {"kd": 1.0, "kind": kind}).detach()])
    assert not any(found.isnan().any() for found in gradients(values.mean(), given))


@every_case
def test_bfloat16_products_are_those_of_a_bfloat16_linear_and_the_rest_is_float32(options):
    given = made(dtype=torch.bfloat16)
    values = by_chunks(given, options)
    assert values.dtype == torch.float32
    close([values.detach()], [by_dense(given, options).detach()], 1e-5)
    found, expected = (gradients(v.mean(), given) for v in (values, by_dense(given, options)))
    close(found, expected, 0.02)  # both round their gradients to three digits


def test_under_autocast_products_are_made_in_its_type_forward_and_backward():
    given, options = made(), CASES["ce_forward"]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found, expected = by_chunks(given, options), by_dense(given, options)
    assert found.dtype == torch.float32 and not torch.equal(found, by_chunks(given, options))
    close([found.detach()], [expected.detach()])
    weights = torch.rand(N)
    by_parameters = gradients((found * weights).sum(), given)
    assert all(one.dtype == torch.float32 for one in by_parameters)
    close(by_parameters, gradients((expected * weights).sum(), given), 0.02)


def test_batches_of_sentences_have_one_value_per_position():
    given = made(positions=6)
    shaped = {**given, "targets": given["targets"].view(2, 3)}
    for name in ("student_hidden", "teacher_hidden"):
        shaped[name] = given[name].view(2, 3, -1)
    found = by_chunks(shaped, CASES["ce_jsd"])
    assert found.shape == (2, 3)
    torch.testing.assert_close(found.flatten(), by_chunks(given, CASES["ce_jsd"]))


def test_no_positions_give_no_values_and_gradients_of_zero():
    given = made(positions=0)
    values = by_chunks(given, CASES["ce_forward"])
    assert values.shape == (0,)
    assert all(not found.any() for found in gradients(values.sum(), given))


class Largest(TorchDispatchMode):
    """The largest number of elements of any result while it is on."""

    elements = 0

    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        result = function(*arguments, **(options or {}))
        for found in result if isinstance(result, (tuple, list)) else (result,):
            if isinstance(found, torch.Tensor):
                self.elements = max(self.elements, found.numel())
        return result


@every_case
@pytest.mark.parametrize("recompute", [False, True])
def test_no_array_of_all_positions_and_the_vocabulary_is_made_neither_forward_nor_backward(options, recompute):
    positions, rows, chunk = 200, 300, 5
    given = made(positions=positions, rows=rows, taught=rows)
    with Largest() as largest:
        gradients((by_chunks(given, options, chunk=chunk, recompute=recompute) * torch.rand(positions)).sum(), given)
    assert largest.elements <= max(chunk * rows, rows * D2, positions * D2) < positions * rows / 10


def test_chunks_fit_into_the_memory_asked_for_and_are_even():
    settings = Settings(ce=1.0, memory_mb=128)
    assert settings.positions(512, 128_000) == 64
    assert settings.positions(70, 128_000) == 35  # and not 65 and 5
    assert settings.positions(512, 8_000) == 512
    assert settings.positions(512, 10**9) == 1
    assert settings.positions(0, 8_000) == 1
    assert Settings(ce=1.0, chunk=100).positions(512, 128_000) == 86
    bounds = [Settings(kd=1.0, memory_mb=size).positions(10_000, 50_000) for size in (1, 10, 100, 1000)]
    assert all(one < other for one, other in pairwise(bounds))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kd": 1.0, "kind": "backward"}, "forward, reverse, jsd"),
        ({"kd": 1.0, "kind": "jsd", "beta": 1.0}, "beta must lie between 0 and 1"),
        ({"kd": 1.0, "temperature": 0.0}, "temperature"),
        ({"ce": 1.0, "label_smoothing": 1.5}, "label_smoothing"),
        ({"ce": 1.0, "chunk": 0}, "chunk"),
        ({"ce": 1.0, "memory_mb": 0}, "memory_mb"),
        ({"ce": -1.0}, "ce must be"),
        ({}, "one of ce and kd"),
    ],
)
def test_settings_that_cannot_be_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Settings(**options)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"student_hidden": torch.zeros(N, D + 1)}, "student_hidden .* student_head .* disagree"),
        ({"teacher_hidden": torch.zeros(N, D2 + 1)}, "teacher_hidden .* teacher_head .* disagree"),
        ({"teacher_hidden": torch.zeros(N + 1, D2)}, "student_hidden .* teacher_hidden .* disagree"),
        ({"student_bias": torch.zeros(V + 1)}, "student_head .* student_bias .* disagree"),
        ({"targets": torch.zeros(N + 1, dtype=torch.int64)}, "targets .* disagree"),
        ({"targets": None}, "targets None disagree"),
        ({"teacher_head": None}, "needs teacher_hidden and teacher_head"),
    ],
)
def test_shapes_that_do_not_fit_are_named(change, message):
    with pytest.raises(ValueError, match=message):
        by_chunks({**made(), **change}, CASES["ce_forward"])


@pytest.mark.parametrize("label", [-100, 61])
def test_a_target_that_no_common_row_has_is_an_error(label):
    given = made(rows=64)
    given["targets"][4] = label
    with pytest.raises(IndexError, match="outside of the 61 rows"):
        by_chunks(given, CASES["ce_forward"])


TERMS = {
    "vocabulary_ce": {"label_smoothing": 0.1},
    "vocabulary_kd": {"kind": "jsd", "beta": 0.4, "temperature": 2.0},
    "vocabulary_ce_kd": {"ce": 0.3, "kd": 0.7, "kind": "reverse", "temperature": 2.0},
    "vocabulary_kd_visual": {"temperature": 2.0},
    "ce": {"label_smoothing": 0.1, "execution": "chunked"},
    "kd": {"temperature": 2.0, "execution": "chunked"},
    "kl_reverse": {"temperature": 2.0, "execution": "chunked"},
    "jsd": {"beta": 0.4, "temperature": 2.0, "execution": "chunked"},
}


@pytest.mark.parametrize("name", TERMS)
def test_terms_bind_to_the_names_that_tasks_give_and_their_options_to_the_config(name):
    (term,) = build_objective({name: {"weight": 1.0, "chunk": 4, "memory_mb": 64, **TERMS[name]}}).terms
    assert term.pointwise and term.options["chunk"] == 4 and term.options["memory_mb"] == 64
    assert set(term.wants) <= {"student_hidden", "student_head", "teacher_hidden", "teacher_head", "targets"}
    assert set(term.may_want) <= {"student_bias", "teacher_bias"}
    assert term.needs_teacher == (name not in ("vocabulary_ce", "ce"))
    assert set(inspect.signature(term.function).parameters) >= {*term.wants, *term.may_want, "chunk", "memory_mb"}


@pytest.mark.parametrize("name", [name for name in TERMS if "visual" not in name])
def test_the_objective_of_a_padded_batch_is_that_of_the_dense_terms(name):
    options = TERMS[name]
    given = made(positions=12, bias=False)
    mask = torch.arange(4) < torch.tensor([[4], [1], [3]])
    batch = {
        key: value if value is None or key.endswith("head") else value.view(3, 4, *value.shape[1:])
        for key, value in given.items()
    }
    for key in ("student_hidden", "teacher_hidden"):
        batch[key] = torch.where(mask[..., None], batch[key], torch.nan)
    batch["targets"] = batch["targets"].masked_fill(~mask, -100)
    total, raw = build_objective({name: {"weight": 2.0, "chunk": 3, **options}})({**batch, "mask": mask}, 8)
    kinds = {"kd": "forward", "kl_reverse": "reverse", "jsd": "jsd"}
    factors = {"vocabulary_ce": {"ce": 1.0}, "ce": {"ce": 1.0}, "vocabulary_ce_kd": {}}.get(name, {"kd": 1.0})
    factors |= {"kind": kinds[name]} if name in kinds else {}
    plain = {key: value for key, value in options.items() if key != "execution"}
    values = by_dense(given, {**factors, **plain}).view(3, 4)
    expected = 2.0 * values[mask].sum() / 8
    assert set(raw) == {name}
    close([total.detach()], [expected.detach()])
    found = gradients(total, given)
    close(found, gradients(expected, given))
    assert not found[0].view(3, 4, D)[~mask].any()


@pytest.mark.parametrize(("rows", "taught"), [(50, 40), (40, 50), (50, 50)])
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_the_cross_entropy_beside_a_teacher_does_not_depend_on_the_weight_of_the_teacher(rows, taught, smoothing):
    """Rows that only one network has are left out, also where soft targets have no weight."""
    given = made(dtype=torch.float64, rows=rows, taught=taught)
    options = {"ce": 1.0, "label_smoothing": smoothing}
    found, limit = (ce_kd_chunked(**given, kd=factor, **options) for factor in (0.0, 1e-9))
    torch.testing.assert_close(found, limit, rtol=1e-7, atol=1e-7)
    close(gradients(found.sum(), given), gradients(limit.sum(), given), 1e-7)
    expected = by_dense(given, {"ce": 1.0, "label_smoothing": smoothing}, rows=min(rows, taught))
    torch.testing.assert_close(found, expected)
    if rows > taught:
        with pytest.raises(IndexError, match="40 rows"):
            ce_kd_chunked(**{**given, "targets": given["targets"] * 0 + 45}, kd=0.0, **options)
