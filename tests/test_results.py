"""Results: iterate, tables, files, short texts, pictures for notebooks."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from recognition_helpers import encoded, picture, recognizer

from mien.errors import MienError
from mien.recognition import draw, results
from mien.recognition.results import Face, Recognition, Recognitions

FACE = Face((10.04, 20.0, 30.6, 40.2), "glad", 0.9371234567, {"calm": 0.0628765433, "glad": 0.9371234567}, False, 0.88)
DOUBTFUL = dataclasses.replace(FACE, score=0.51, uncertain=True, id=3)


def test_a_result_is_a_sequence_of_its_faces() -> None:
    result = recognizer().recognize(picture([255, 204]))
    assert len(result) == 2 and list(result) == list(result.faces) and bool(result)
    assert result[0] is result.faces[0] and result[-1] is result.faces[1] and result[:1] == result.faces[:1]
    with pytest.raises(IndexError):
        result[2]
    assert not recognizer().recognize(picture([]))


def test_texts_of_results_are_short_with_rounded_numbers() -> None:
    assert repr(FACE) == "Face(glad 94%, box=(10, 20, 31, 40))"
    assert repr(DOUBTFUL) == "Face(glad? 51%, box=(10, 20, 31, 40), id=3)"
    record = Recognition("photo.jpg", "ok", None, 640, 480, (FACE, DOUBTFUL))
    assert repr(record) == "Recognition('photo.jpg', 640x480, glad 94%, glad? 51%)"
    crowded_record = dataclasses.replace(record, faces=(FACE,) * 7, frame=5, time_s=0.2)
    assert repr(crowded_record) == (
        "Recognition('photo.jpg', frame 5 (0.20 s), 640x480, glad 94%, glad 94%, glad 94%, glad 94%, and 3 more faces)"
    )
    assert repr(Recognition("a.jpg", "no_face", width=2, height=1)) == "Recognition('a.jpg', 2x1, no face)"
    broken_record = Recognition("\x1b[31m" + "x" * 500, "error", "cannot be\x1b read")
    assert (
        len(repr(broken_record)) < 120
        and "\x1b" not in repr(broken_record)
        and "error: cannot be\\x1b read" in repr(broken_record)
    )
    assert repr(Recognitions([record] * 6)).endswith(", and 2 more]")


def test_a_dict_has_probabilities_and_a_face_of_a_record_is_as_alone() -> None:
    record = Recognition("photo.jpg", "ok", None, 640, 480, (FACE, DOUBTFUL))
    first_face, second_face = record.to_dict()["faces"]
    assert first_face == {
        "box": [10.0, 20.0, 30.6, 40.2], "label": "glad", "score": FACE.score, "uncertain": False,
        "probabilities": {"calm": 0.0628765433, "glad": 0.9371234567}, "detector_score": 0.88,
    }  # fmt: skip
    assert second_face["id"] == 3 and FACE.to_dict() == first_face


def test_json_of_one_is_an_object_of_several_an_array_and_of_jsonl_lines(tmp_path: Path) -> None:
    record = Recognition("Größe.jpg", "ok", None, 640, 480, (FACE,))
    records = Recognitions([record, Recognition("b.jpg", "error", "broken")])
    text = record.to_json()
    assert text is not None and json.loads(text) == record.to_dict() and "Größe" in text
    assert json.loads(records.to_json()) == records.to_dict() == [record.to_dict(), records[1].to_dict()]
    assert json.loads(Recognitions().to_json()) == []
    assert records.to_json(tmp_path / "a.json") is None
    assert json.loads((tmp_path / "a.json").read_text("utf-8")) == records.to_dict()
    records.to_json(tmp_path / "a.jsonl")
    lines = (tmp_path / "a.jsonl").read_text("utf-8").splitlines()
    assert [json.loads(line) for line in lines] == records.to_dict()
    record.to_json(tmp_path / "one.json")
    assert json.loads((tmp_path / "one.json").read_text("utf-8")) == record.to_dict()
    assert json.loads(dataclasses.replace(record, input="\udcff.jpg").to_json())["input"] == "\udcff.jpg"


def test_a_tilde_is_the_home_folder_as_in_pandas(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "work").mkdir()
    for variable in ("HOME", "USERPROFILE"):
        monkeypatch.setenv(variable, str(tmp_path))
    monkeypatch.chdir(tmp_path / "work")
    (tmp_path / "photo.png").write_bytes(encoded(picture([255])))
    record = recognizer().recognize("~/photo.png")
    assert record.status == "ok"
    with pytest.raises(MienError, match="is the picture that was read"):
        record.save("~/photo.png")
    record.to_csv("~/a.csv")
    record.to_json("~/a.jsonl")
    record.save("~/a.png")
    Recognitions([record]).save("~/copies")
    record_names = {path.name for path in tmp_path.iterdir()}
    assert record_names == {"a.csv", "a.jsonl", "a.png", "copies", "photo.png", "work"}
    assert not list(Path().iterdir()), "no folder with the name ~"


def test_csv_as_text_is_that_of_the_file(tmp_path: Path) -> None:
    records = recognizer().recognize([picture([255, 204]), b"", picture([])])
    text = records.to_csv()
    assert records.to_csv(tmp_path / "faces.csv") is None and text is not None
    assert (tmp_path / "faces.csv").read_text("utf-8") == text
    rows = list(csv.DictReader(io.StringIO(text)))
    assert [row["status"] for row in rows] == ["ok", "ok", "error", "no_face"]
    assert float(rows[1]["probability_glad"]) == pytest.approx(0.8)
    (row,) = csv.DictReader(io.StringIO(records[1].to_csv()))
    assert row["status"] == "error" and row["probability_glad"] == ""


def test_a_table_has_a_row_for_every_face() -> None:
    pandas = pytest.importorskip("pandas")
    table = recognizer().recognize([picture([255, 204]), b""]).to_df()
    assert isinstance(table, pandas.DataFrame) and len(table) == 3
    assert table["label"].tolist()[:2] == ["glad", "glad"] and table["probability_glad"][1] == pytest.approx(0.8)
    assert table["status"].tolist() == ["ok", "ok", "error"] and table["box_x"].tolist()[:2] == [8, 24]
    assert len(recognizer().recognize(picture([255])).to_df()) == 1


def test_a_table_without_a_face_has_the_same_columns() -> None:
    expected = list(recognizer().recognize(picture()).to_rows()[0])
    assert expected[-2:] == ["probability_calm", "probability_glad"]
    for result in (recognizer().recognize(picture([])), recognizer().recognize([b"", picture([])])):
        assert list(result.to_rows()[0]) == expected and result.to_csv().startswith(",".join(expected))


def test_a_table_of_results_of_several_models_has_the_columns_of_all() -> None:
    face = Face((0, 0, 9, 9), "shy", 0.7, {"shy": 0.7, "calm": 0.3})
    (first,) = both = recognizer().recognize([picture()])
    both.append(Recognition("b.jpg", "ok", None, 9, 9, (face,), names=("shy", "calm")))
    names = ["probability_calm", "probability_glad", "probability_shy"]
    rows = both.to_rows()
    assert [list(row)[-3:] for row in rows] == [names, names]
    assert [rows[1][name] for name in names] == [0.3, None, 0.7] and rows[0]["label"] == first[0].label
    table = list(csv.DictReader(io.StringIO(both.to_csv())))
    assert [table[1][name] for name in names] == ["0.3", "", "0.7"]
    pytest.importorskip("pandas")
    assert both.to_df()["probability_shy"][1] == 0.7


def test_rows_are_those_of_the_table_with_the_same_keys() -> None:
    results_of_three = recognizer().recognize([picture([255, 204]), b"", picture([])])
    rows = results_of_three.to_rows()
    assert [row["status"] for row in rows] == ["ok", "ok", "error", "no_face"] and len(
        {tuple(row) for row in rows}
    ) == 1
    assert rows[1]["probability_glad"] == pytest.approx(0.8) and rows[2]["label"] is None is rows[3]["probability_glad"]
    pytest.importorskip("pandas")
    assert list(rows[0]) == results_of_three.to_df().columns.tolist()
    assert Recognitions().to_rows() == []


def test_without_pandas_a_line_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(results, "find_spec", lambda name: None)
    with pytest.raises(MienError, match=r"to_df: needs pandas, which is not installed; pip install 'mien\[tables\]'"):
        Recognitions().to_df()


def test_the_annotated_picture_can_be_saved_shown_and_displayed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = recognizer().recognize(picture([255], side=40))
    png = result._repr_png_()
    assert png is not None and np.array_equal(np.asarray(Image.open(io.BytesIO(png))), np.asarray(result.annotated()))
    result.save(tmp_path / "new" / "a.png")
    assert (tmp_path / "new" / "a.png").read_bytes()[1:4] == b"PNG"
    assert np.array_equal(np.asarray(Image.open(tmp_path / "new" / "a.png")), np.asarray(result.annotated()))
    result.save(str(tmp_path / "a.jpg"))
    assert Image.open(tmp_path / "a.jpg").format == "JPEG"
    with pytest.raises(MienError, match=r"a\.txt: is not a name for a picture, expected one that ends in \.jpg or"):
        result.save(tmp_path / "a.txt")
    bytes_before = (tmp_path / "a.jpg").read_bytes()
    of_file = recognizer().recognize(tmp_path / "a.jpg")
    with pytest.raises(MienError, match=r"a\.jpg: is the picture that was read; choose another place"):
        of_file.save(of_file.input)
    for write in (of_file.to_csv, of_file.to_json, Recognitions([result, of_file]).to_csv):
        with pytest.raises(MienError, match=r"a\.jpg: is the picture that was read; choose another place"):
            write(of_file.input)
    assert (tmp_path / "a.jpg").read_bytes() == bytes_before
    wide = dataclasses.replace(result, pixels=np.zeros((1, 16_384), np.uint8), faces=())
    with pytest.raises(
        MienError, match=r"wide\.webp: 16384x1 pixels cannot be written as WEBP .*make it smaller, or con"
    ):
        wide.save(tmp_path / "wide.webp")
    assert not (tmp_path / "wide.webp").exists()
    shown_images: list[Image.Image] = []
    monkeypatch.setattr(Image.Image, "show", lambda image, title=None: shown_images.append(image))
    result.show()
    assert [image.size for image in shown_images] == [result.annotated().size]
    record_without_pixels = dataclasses.replace(result, pixels=None)
    assert record_without_pixels._repr_png_() is None
    with pytest.raises(MienError, match="its pixels were not kept"):
        record_without_pixels.save(tmp_path / "b.png")
    assert not (tmp_path / "b.png").exists()


def test_a_list_of_results_saves_a_copy_of_each_picture(tmp_path: Path) -> None:
    paths = []
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        paths.append(tmp_path / folder / "face.png")
        paths[-1].write_bytes(encoded(picture([255])))
    records = recognizer().recognize([*paths, tmp_path / "missing.png"])
    copies = records.save(tmp_path / "marked")
    assert [copy.name for copy in copies] == ["face.png", "face-2.png"] and all(copy.is_file() for copy in copies)
    assert isinstance(records, list) and [record.input for record in records[:1]] == [str(paths[0])]


def test_copies_that_cannot_be_written_do_not_stop_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wide = np.zeros((1, 16_384), np.uint8)
    names = ["a.webp", "b.png", *(f"{number}.webp" for number in range(4)), "large.bmp", "c.png"]
    records = Recognitions(
        Recognition(name, "no_face", pixels=wide if name.endswith("webp") else wide[:, :8]) for name in names
    )
    annotated = draw.annotated

    def scarce(pixels: np.ndarray, faces: Sequence[Face]) -> np.ndarray:
        if pixels is records[6].pixels:
            raise MemoryError
        return annotated(pixels, faces)

    monkeypatch.setattr(draw, "annotated", scarce)
    with pytest.raises(MienError) as error:
        records.save(tmp_path / "marked")
    assert sorted(path.name for path in (tmp_path / "marked").iterdir()) == ["b.png", "c.png"]
    message = str(error.value)
    assert message.startswith(
        f"{tmp_path / 'marked'}: 6 of 8 copies could not be written: {tmp_path / 'marked'}/a.webp: "
    )
    assert message.endswith("convert it to PNG; and 2 more") and message.count("16384x1 pixels") == 4
    with pytest.raises(
        MienError, match=r"1 of 2 copies could not be written: .*large\.bmp: .* not enough memory to draw"
    ):
        Recognitions(records[6:]).save(tmp_path / "more")
    (tmp_path / "file").touch()
    with pytest.raises(MienError, match=r"file: 2 of 2 copies could not be written: .*file/b\.png: cannot be written"):
        Recognitions([records[1], records[7]]).save(tmp_path / "file")
