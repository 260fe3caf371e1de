"""The command line on files: what it writes, how it goes on, and what it refuses."""

import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from sklearn.datasets import load_diabetes, load_wine

from skntk.cli import main
from skntk.cli.table import Table

SMALL = ["--widths", "4", "8", "inf", "--depth", "1", "--epochs", "2", "--seeds", "2", "--quiet"]


@pytest.fixture
def prices(tmp_path, monkeypatch):
    """A table with numbers, texts, missing values, a constant column, and the folder it is in."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    n = 60
    frame = pd.DataFrame(
        {
            "size": rng.uniform(30, 120, n),
            "rooms": rng.integers(1, 6, n),
            "city": rng.choice(["Bonn", "Köln", "Trier"], n),
            "garden": rng.random(n) < 0.5,
            "country": "DE",
            "id": [f"house {i}" for i in range(n)],
        }
    )
    frame["price"] = frame["size"] * 3 + 20 * frame.garden + rng.standard_normal(n)
    frame.loc[3, "size"] = np.nan
    frame.loc[[4, 7], "city"] = None
    frame.loc[9, "price"] = np.nan
    frame.to_csv("prices.csv", index=False)
    return tmp_path


def test_it_writes_the_report(prices, capsys):
    assert main(["disconnect", "prices.csv", "--target", "price", "--drop", "id", *SMALL]) == 0
    out = capsys.readouterr().out
    assert "1 row without 'price' left out." in out
    assert "columns of one value left out: 'country'." in out
    assert "regression of 'price' from 4 columns, 45 rows to train on and 14 to test on" in out
    assert "Width 4: " in out
    folder = prices / "prices-price-disconnect"
    names = {p.name for p in folder.iterdir()}
    assert names == {"runs.csv", "summary.csv", "scores.csv", "report.png", "report.html",
                     "finished"}  # fmt: skip
    runs = pd.read_csv(folder / "runs.csv")
    assert runs[["width", "seed"]].to_numpy().tolist() == [[4, 0], [4, 1], [8, 0], [8, 1]]
    assert (runs.status == "ok").all()
    assert runs.limit.notna().all()
    assert (folder / "report.png").read_bytes().startswith(b"\x89PNG")
    assert "Width 8" in (folder / "report.html").read_text(encoding="utf-8")


def test_it_goes_on_where_it_was(prices, monkeypatch, capsys):
    command = ["disconnect", "prices.csv", "--target", "price", *SMALL]
    import skntk.diagnostics.disconnect as module

    run, done = module._Disconnect.run, []

    def interrupted(self, unit):
        done.append(unit)
        if len(done) == 3:
            raise KeyboardInterrupt
        return run(self, unit)

    monkeypatch.setattr(module._Disconnect, "run", interrupted)
    assert main(command) == 130
    assert "interrupted; give the same command again" in capsys.readouterr().err
    assert not (prices / "prices-price-disconnect" / "report.html").exists()
    assert main(command) == 0
    assert len(done) == 5  # two before, one in vain, two after


def test_classes(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    load_wine(as_frame=True).frame.to_csv("wine.csv", index=False)
    assert main(["disconnect", "wine.csv", "--target", "target", "--out", "here", *SMALL]) == 0
    assert "classification of 'target' from 13 columns" in capsys.readouterr().out
    assert (tmp_path / "here" / "report.html").exists()


def test_tasks(tmp_path):
    """Few different numbers are classes, unless the command says otherwise."""
    path = tmp_path / "data.csv"
    frame = load_diabetes(as_frame=True).frame[:50]
    frame.assign(
        grade=np.arange(50) % 5, share=np.arange(50) % 5 / 2, name=[f"a{i % 3}" for i in range(50)]
    ).to_csv(path)
    found = {
        (target, task): Table.read(path, target, task, []).classifies
        for target, task in [
            ("grade", "auto"),
            ("grade", "regression"),
            ("target", "auto"),
            ("target", "regression"),
            ("grade", "classification"),
            ("share", "auto"),
            ("name", "auto"),
        ]
    }
    assert list(found.values()) == [True, False, False, False, True, False, True]


def test_features(prices):
    table = Table.read(prices / "prices.csv", "price", "auto", ["id"])
    assert table.X.columns.tolist() == ["size", "rooms", "city", "garden"]
    A = table.features().fit_transform(table.X)
    assert A.shape == (59, 7)  # three numbers, three cities and "missing"
    assert np.isfinite(A).all()
    np.testing.assert_allclose(A[:, :3].mean(0), 0, atol=1e-12)
    unseen = table.X.assign(city="Berlin")
    assert np.isfinite(table.features().fit(table.X).transform(unseen)).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["missing.csv", "--target", "price"], "there is no file missing.csv"),
        (["prices.csv", "--target", "prise"], "no column 'prise'. Did you mean 'price'?"),
        (["prices.csv", "--target", "price", "--drop", "x"], "there is no column 'x'"),
        (["prices.csv", "--target", "price", "--drop", "price"], "--drop names the target"),
        (["prices.csv", "--target", "country"], "'country' has one value only, 'DE'"),
        (["prices.csv", "--target", "city", "--task", "regression"], "needs numbers, but 'city'"),
        (["prices.csv", "--target", "price", "--widths", "inf"], "pass at least 1"),
        (["prices.csv", "--target", "id"], "'id' has 60 different values in 60 rows"),
        (
            ["prices.csv", "--target", "size", "--task", "classification"],
            "pass another --target or --task regression",
        ),
        (["latin.csv", "--target", "y"], "latin.csv is not in UTF-8"),
        (["prices.csv", "--target", "price", "--out", "prices.csv"], "cannot be written"),
        (["few.csv", "--target", "y"], "few.csv has 3 rows with a target; 8 are needed"),
        (["empty.csv", "--target", "y"], "cannot be read as CSV"),
        (["alone.csv", "--target", "y"], "has no column beside 'y' that varies"),
        (["folder", "--target", "y"], "cannot be read as CSV"),
    ],
)
def test_what_it_refuses(arguments, message, prices, capsys):
    (prices / "few.csv").write_text("x,y\n1,2\n2,3\n3,5\n")
    (prices / "latin.csv").write_bytes("x,y\nKöln,2\n".encode("latin-1"))
    (prices / "empty.csv").write_text("")
    (prices / "alone.csv").write_text("x,y\n" + "1,2\n1,3\n" * 10)
    (prices / "folder").mkdir()
    assert main(["disconnect", *arguments, "--quiet"]) == 2
    err = capsys.readouterr().err
    assert err.startswith("skntk disconnect: ")
    assert message in err
    assert "Traceback" not in err


def test_missing_values(tmp_path):
    """A class may be called None; that a text is missing may tell something."""
    path = tmp_path / "missing.csv"
    rows = ["?,,None", "1.5,yes,NA", "2.5,,None", "3.5,yes,some"] * 4
    path.write_text("number,text,y\n" + "\n".join(rows) + "\n")
    table = Table.read(path, "y", "auto", [])
    assert sorted(table.y.unique()) == ["None", "some"]
    assert table.notes == ["4 rows without 'y' left out."]
    assert table.X.columns.tolist() == ["number", "text"]
    A = table.features().fit_transform(table.X)
    assert A.shape == (12, 3)
    assert np.isfinite(A).all()


def test_texts_get_so_many_indicators_at_most(tmp_path):
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"code": [f"c{i}" for i in rng.integers(0, 60, 300)]})
    frame.assign(y=rng.random(300)).to_csv(tmp_path / "codes.csv", index=False)
    table = Table.read(tmp_path / "codes.csv", "y", "auto", [])
    A = table.features().fit_transform(table.X)
    assert A.shape == (300, 20)
    assert (A.sum(1) == 1).all()


@pytest.mark.parametrize(
    ("separator", "decimal", "name"),
    [(";", ".", "semicolons"), (";", ",", "semicolons"), ("\t", ".", "tabs")],
)
def test_separators(separator, decimal, name, prices):
    path = prices / "other.csv"
    usual = Table.read(prices / "prices.csv", "price", "auto", [])
    frame = pd.read_csv(prices / "prices.csv")
    frame.to_csv(path, sep=separator, decimal=decimal, index=False)
    table = Table.read(path, "price", "auto", [])
    pd.testing.assert_frame_equal(table.X, usual.X)
    pd.testing.assert_series_equal(table.y, usual.y)
    assert table.notes == [f"other.csv is separated by {name}.", *usual.notes]


def test_an_index_and_texts_that_all_differ_are_noted(prices):
    frame = pd.read_csv(prices / "prices.csv")
    frame.to_csv(prices / "indexed.csv")
    table = Table.read(prices / "indexed.csv", "price", "auto", [])
    assert "Unnamed: 0" not in table.X
    assert "columns that number the rows left out: 'Unnamed: 0'." in table.notes
    assert any("most values differ in the text columns 'id'" in note for note in table.notes)
    for drop in (["id"], ["id", "city"]):
        table = Table.read(prices / "prices.csv", "price", "auto", drop)
        assert not any("differ" in note for note in table.notes)


def test_truth_values_that_are_missing(tmp_path, capsys, monkeypatch):
    """pandas reads them as objects of two types; one is a text."""
    monkeypatch.chdir(tmp_path)
    n = 40
    rng = np.random.default_rng(0)
    flag = pd.Series(rng.random(n) < 0.5).astype(object).where(np.arange(n) % 9 > 0)
    frame = pd.DataFrame({"flag": flag, "mixed": ["a", 1] * (n // 2), "y": rng.random(n) < 0.5})
    frame.to_csv("flags.csv", index=False)
    assert main(["disconnect", "flags.csv", "--target", "y", *SMALL]) == 0
    assert "classification of 'y' from 2 columns" in capsys.readouterr().out


def test_nothing_is_known_of_runs_that_all_fail(prices, capsys):
    command = ["disconnect", "prices.csv", "--target", "price", "--optimizer", "gd"]
    assert main([*command, "--learning-rate", "1e9", *SMALL, "--epochs", "20"]) == 1
    assert "nothing is known" in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["disconnect"],
        ["study"],
        ["disconnect", "x.csv", "--target", "y", "--widths", "3.5"],
        ["disconnect", "x.csv", "--target", "y", "--widths", "0"],
        ["disconnect", "x.csv", "--target", "y", "--seeds", "1"],
        ["disconnect", "x.csv", "--target", "y", "--depth", "-1"],
        ["disconnect", "x.csv", "--target", "y", "--margin", "0"],
        ["disconnect", "x.csv", "--target", "y", "--learning-rate", "nan"],
    ],
)
def test_usage(arguments, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2
    assert "usage: skntk" in capsys.readouterr().err


def test_as_a_module(prices):
    command = [sys.executable, "-m", "skntk", "disconnect", "x.csv", "--target", "y"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
