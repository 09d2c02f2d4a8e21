import json

import pytest

from kdrun.domains.translation.shipped.corpora import iwslt14_de_en, wmt17_en_de, wmt23_en_cs
from kdrun.problems import UserError


def lines(path, texts):
    path.write_text("".join(f"{text}\n" for text in texts))


@pytest.fixture
def plain(tmp_path):
    def make(languages=("de", "en"), train=69, val=None, name="valid"):
        for language in languages:
            lines(tmp_path / f"train.{language}", [f"{language} Satz {n}" for n in range(train)])
            lines(tmp_path / f"test.{language}", [f"{language} Test {n}" for n in range(4)])
            if val:
                lines(tmp_path / f"{name}.{language}", [f"{language} Val {n}" for n in range(val)])
        return tmp_path

    return make


def counts(pairs):
    return [int((pairs.split == part).sum()) for part in range(3)]


def test_iwslt14_is_prepared_as_by_fairseq(plain):
    root = plain()
    for language in ("de", "en"):  # an over-long pair is left out before every 23rd is taken
        texts = (root / f"train.{language}").read_text().splitlines()
        lines(root / f"train.{language}", ["zu " * 176, *texts])
    made = iwslt14_de_en(root)
    assert counts(made) == [66, 3, 4] and made.lowercase and made.languages == ("de", "en")
    assert made.source[22] == "de satz 22" and made.split[22] == 1 and made.ids[22] == 23
    assert made.dropped == {"long": 1}
    assert counts(iwslt14_de_en(root, val_every=0, lowercase=False)) == [69, 0, 4]


def test_files_for_validation_are_used(plain):
    assert counts(iwslt14_de_en(plain(val=5))) == [69, 5, 4]


@pytest.mark.parametrize("source, languages", [(wmt17_en_de, ("en", "de")), (wmt23_en_cs, ("en", "cs"))])
def test_wmt(source, languages, plain):
    made = source(plain(languages, val=5, name="dev"))
    assert counts(made) == [69, 5, 4] and made.languages == languages and not made.lowercase
    turned = source(plain(languages), direction="-".join(reversed(languages)))
    assert turned.source[0].startswith(languages[1]) and turned.languages == languages[::-1]


def test_missing_files_are_named(plain, tmp_path):
    with pytest.raises(UserError, match="there is no such folder"):
        iwslt14_de_en(tmp_path / "absent")
    with pytest.raises(UserError, match=r"no train.de\[.gz\] and train.en"):
        iwslt14_de_en(tmp_path)
    root = plain()
    (root / "test.en").unlink()
    with pytest.raises(UserError, match=r"has test.de but no test.en"):
        iwslt14_de_en(root)
    with pytest.raises(UserError, match=r"de-en and en-de; closest: de-en"):
        iwslt14_de_en(root, direction="de_en")


@pytest.mark.parametrize("name", ["Valid", "VAL", "validation", "Dev", "development"])
def test_files_for_validation_under_their_common_names(name, plain):
    assert counts(wmt17_en_de(plain(("en", "de"), val=5, name=name))) == [69, 5, 4]


def test_two_files_for_one_split_are_refused(plain):
    plain(val=5, name="dev")
    with pytest.raises(UserError, match="dev and valid are both val"):
        iwslt14_de_en(plain(val=5))


def rows(count, name):
    return [{"de": f"{name} eins {n}", "en": f"{name} one {n}"} for n in range(count)]


def test_a_hugging_face_data_set_on_disk(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    ipc, parquet = pytest.importorskip("pyarrow.ipc"), pytest.importorskip("pyarrow.parquet")
    one, other = tmp_path / "parquet", tmp_path / "saved"
    one.mkdir(), other.mkdir()
    sizes = {"train": 30, "validation": 4, "test": 3}
    for split, count in sizes.items():
        table = pyarrow.table({"translation": rows(count, split)})
        parquet.write_table(table, one / f"{split}-00000-of-00001.parquet")
        (other / split).mkdir()
        with ipc.new_stream(str(other / split / "data-00000-of-00001.arrow"), table.schema) as writer:
            writer.write_table(table)
        state = {"_data_files": [{"filename": "data-00000-of-00001.arrow"}], "_indices_files": None}
        (other / split / "state.json").write_text(json.dumps(state))
    (other / "dataset_dict.json").write_text(json.dumps({"splits": list(sizes)}))
    plain, saved = iwslt14_de_en(one), iwslt14_de_en(other)
    assert counts(plain) == counts(saved) == [30, 4, 3]
    assert plain.source_hash == saved.source_hash and plain.target[0] == "train one 0"
    with pytest.raises(UserError, match="row 1 has no cs; it has: de, en"):
        wmt23_en_cs(one)
