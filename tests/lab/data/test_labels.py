"""Data with many labels: Mulan's ARFF files, dense and sparse, and errors that name the file and the line."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from sklearn.metrics import f1_score

from convexnet.lab.data.files import CorruptData, MissingData
from convexnet.lab.data.labels import bibtex, many_labels_of_chance, read_arff
from convexnet.lab.runs.many_labels import expected_f1_choice, f1_scores, tuned_threshold

HEAD = """@relation small

% words, then tags
@attribute word {0,1}
@attribute 'a name' numeric
@attribute TAG_red {0,1}
@attribute TAG_blue {0,1}

@data
"""
SPARSE = "{0 1,2 1}\n{}\n\n% a remark\n{1 0.5,3 1}\n"
DENSE = "1,0,1,0\n0,0,0,0\n0,0.5,0,1\n"


def written(folder: Path, text: str, name: str = "bibtex-train.arff") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(text, encoding="utf-8")
    return folder / name


@pytest.mark.parametrize("rows", [SPARSE, DENSE])
def test_a_file_in_the_published_format(rows: str, tmp_path: Path) -> None:
    x, y, labels = read_arff(written(tmp_path, HEAD + rows))
    assert labels == ("TAG_red", "TAG_blue")
    assert x.tolist() == [[1.0, 0.0], [0.0, 0.0], [0.0, 0.5]]
    assert y.tolist() == [[1.0, 0.0], [0.0, 0.0], [0.0, 1.0]]


def test_labels_that_an_xml_file_names(tmp_path: Path) -> None:
    written(tmp_path, '<labels xmlns="http://mulan.sourceforge.net/labels"><label name="word"/></labels>', "bibtex.xml")
    x, y, labels = read_arff(written(tmp_path, HEAD + DENSE))
    assert labels == ("word",)
    assert y[:, 0].tolist() == [1.0, 0.0, 0.0]
    assert x.shape == (3, 3)
    written(tmp_path, "<labels", "bibtex.xml")
    with pytest.raises(CorruptData, match=r"bibtex\.xml cannot be read"):
        read_arff(tmp_path / "bibtex-train.arff")


def test_the_parts_of_a_set(tmp_path: Path) -> None:
    written(tmp_path / "bibtex", HEAD + 10 * SPARSE)
    written(tmp_path / "bibtex", HEAD + DENSE, "bibtex-test.arff")
    data = bibtex(tmp_path)
    assert [len(part[0]) for part in (data.train, data.validation, data.test)] == [27, 3, 3]
    again, inside, other = bibtex(tmp_path), bibtex(tmp_path / "bibtex"), bibtex(tmp_path, seed=1)
    assert torch.equal(data.train[0], again.train[0])
    assert data.fingerprint == inside.fingerprint == other.fingerprint
    assert not torch.equal(data.train[0], other.train[0])
    written(tmp_path / "bibtex", HEAD + "0,0,0,1\n", "bibtex-test.arff")
    assert bibtex(tmp_path).fingerprint != data.fingerprint


@pytest.mark.parametrize(
    ("text", "match"),
    [
        (HEAD + "{0 1,2 1", "line 10: half a row"),
        (HEAD + "{0 1,9 1}", "line 10: attribute 9, and there are 0 to 3"),
        (HEAD + "{0 1 1}", "line 10: a sparse row has pairs"),
        (HEAD + "1,0,1", "line 10: 3 numbers, and there are 4 attributes"),
        (HEAD + "1,0,1,x", "line 10"),
        (HEAD + "1,0,0.5,0", "a label is neither 0 nor 1"),
        (HEAD, "has no data: is it cut off"),
        (HEAD.replace("@data", ""), "has no line @data"),
        (HEAD.replace("TAG_", "") + DENSE, "does not say which attributes are labels"),
        ("@attribute\n" + HEAD, "line 1: not an attribute"),
    ],
)
def test_files_that_are_damaged(text: str, match: str, tmp_path: Path) -> None:
    with pytest.raises(CorruptData, match=match):
        read_arff(written(tmp_path, text))


def test_files_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(MissingData, match="--data-dir"):
        bibtex(None)
    with pytest.raises(MissingData, match=r"bibtex-train\.arff and bibtex-test\.arff are neither in"):
        bibtex(tmp_path)
    with pytest.raises(MissingData, match="cannot be read"):
        read_arff(tmp_path / "none.arff")
    written(tmp_path, HEAD + DENSE)
    written(tmp_path, HEAD.replace("TAG_red", "TAG_green") + DENSE, "bibtex-test.arff")
    with pytest.raises(CorruptData, match="they are not two parts of one set"):
        bibtex(tmp_path)


def test_f1_against_scikit_learn() -> None:
    targets = (torch.rand(40, 9, generator=torch.Generator().manual_seed(0)) < 0.2).int()
    scores = torch.rand(40, 9, generator=torch.Generator().manual_seed(1))
    threshold, best = tuned_threshold(scores, targets)
    chosen = scores > threshold
    wanted = [
        f1_score(targets.numpy(), chosen.int().numpy(), average=how, zero_division=0) for how in ("samples", "macro")
    ]
    assert f1_scores(chosen, targets) == pytest.approx(wanted)
    assert best == pytest.approx(wanted[0])
    assert all(f1_scores(scores > other, targets)[0] <= best + 1e-12 for other in (0.1, 0.3, 0.5, 0.7))


def test_what_is_chosen_has_the_largest_expected_f1() -> None:
    """Against every set of a few labels: the choice is that of the ratio of expectations, and never empty."""
    scores = torch.rand(30, 4, generator=torch.Generator().manual_seed(2)).double()
    chosen = expected_f1_choice(scores)
    assert bool(chosen.any(1).all())
    sets = torch.tensor([[bool(number >> bit & 1) for bit in range(4)] for number in range(1, 16)]).double()
    ratios = 2 * scores @ sets.T / (sets.sum(1) + scores.sum(1, keepdim=True))
    assert torch.equal(chosen, sets[ratios.argmax(1)].bool())


def test_labels_of_chance_have_three_parts() -> None:
    data = many_labels_of_chance()
    assert [part[1].shape for part in (data.train, data.validation, data.test)] == [torch.Size([100, 6])] * 3
