"""WhatsApp's exports in the forms of many languages, hostile ones, and what the app itself writes."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path

import pytest

from zen_mlx.data.examples import ImportOptions, ImportReport, import_examples
from zen_mlx.data.importers.dated_lines import Dates, dated, like_dated
from zen_mlx.data.importers.files import read_all
from zen_mlx.data.importers.tally import Tally
from zen_mlx.data.importers.whatsapp_words import DELETED, EDITED, MISSED, is_edited_mark, is_gone
from zen_mlx.errors import DataError

# What stands before a message on two days, the 31st of May and the 1st of June of 2024, in each form.
FORMS = {
    "he iOS": ("[31.5.2024, 15:05:01] ", "[1.6.2024, 15:06:01] "),
    "he Android": ("31.5.2024, 15:05 - ", "1.6.2024, 15:06 - "),
    "fa digits": ("۱۴۰۳/۳/۱۱،\u200f ۱۵:۰۵ - ", "۱۴۰۳/۳/۱۲،\u200f ۱۵:۰۶ - "),
    "ar iOS": ("[٣١\u200f/٥\u200f/٢٠٢٤، ٣:٠٥:٠١ م] ", "[١\u200f/٦\u200f/٢٠٢٤، ٣:٠٦:٠١ م] "),
    "ar latin digits": ("31/5/2024، 3:05 م - ", "1/6/2024، 3:06 م - "),
    "hi": ("31/5/24, 3:05 pm - ", "1/6/24, 3:06 pm - "),
    "hi deva": ("३१/५/२४, ३:०५ अपराह्न - ", "१/६/२४, ३:०६ अपराह्न - "),
    "bn": ("৩১/৫/২৪, ৩:০৫ PM - ", "১/৬/২৪, ৩:০৬ PM - "),
    "mr": ("३१/५/२४, ३:०५ PM - ", "१/६/२४, ३:०६ PM - "),
    "ta": ("31/5/24, பிற்பகல் 3:05 - ", "1/6/24, பிற்பகல் 3:06 - "),
    "th": ("31/5/67 15:05 - ", "1/6/67 15:06 - "),
    "th BE": ("31/5/2567 15:05 น. - ", "1/6/2567 15:06 น. - "),
    "ja Android": ("2024/05/31 15:05 - ", "2024/06/01 15:06 - "),
    "ja 12h": ("2024/05/31 午後3:05 - ", "2024/06/01 午後3:06 - "),
    "ja iOS": ("[2024/05/31 15:05:01] ", "[2024/06/01 15:06:01] "),
    "ko Android": ("2024. 5. 31. 오후 3:05 - ", "2024. 6. 1. 오후 3:06 - "),
    "ko short": ("24. 5. 31. 오후 3:05 - ", "24. 6. 1. 오후 3:06 - "),
    "ko iOS": ("[2024. 5. 31. 오후 3:05:01] ", "[2024. 6. 1. 오후 3:06:01] "),
    "ko words": ("2024년 5월 31일 오후 3:05 - ", "2024년 6월 1일 오후 3:06 - "),
    "zh-Hans": ("2024/5/31 15:05 - ", "2024/6/1 15:06 - "),
    "zh words": ("2024年5月31日 下午3:05 - ", "2024年6月1日 下午3:06 - "),
    "zh iOS": ("[2024/5/31 下午3:05:01] ", "[2024/6/1 下午3:06:01] "),
    "tr": ("31.05.2024 15:05 - ", "1.06.2024 15:06 - "),
    "tr 12h": ("31.05.2024 ÖS 3:05 - ", "1.06.2024 ÖS 3:06 - "),
    "fi": ("31.5.2024 klo 15.05 - ", "1.6.2024 klo 15.06 - "),
    "pl": ("31.05.2024, 15:05 - ", "1.06.2024, 15:06 - "),
    "da": ("31.05.2024 kl. 15.05 - ", "01.06.2024 kl. 15.06 - "),
    "sv": ("2024-05-31 15:05 - ", "2024-06-01 15:06 - "),
    "sv kl": ("2024-05-31 kl. 15:05 - ", "2024-06-01 kl. 15:06 - "),
    "nl": ("31-05-2024 15:05 - ", "01-06-2024 15:06 - "),
    "de iOS": ("[31.05.24, 15:05:01] ", "[01.06.24, 15:06:01] "),
    "de um": ("31.05.24 um 15:05 - ", "01.06.24 um 15:06 - "),
    "bg": ("31.05.24 г., 15:05 ч. - ", "1.06.24 г., 15:06 ч. - "),
    "bg iOS": ("[31.05.24 г., 15:05:01 ч.] ", "[1.06.24 г., 15:06:01 ч.] "),
    "el": ("31/5/24, 3:05 μ.μ. - ", "1/6/24, 3:06 μ.μ. - "),
    "vi": ("15:05, 31/05/2024 - ", "15:06, 01/06/2024 - "),
    "vi luc": ("31/05/2024, lúc 15:05 - ", "01/06/2024, lúc 15:06 - "),
    "ms": ("31/05/2024, 3:05 PTG - ", "01/06/2024, 3:06 PTG - "),
    "id": ("31/05/24 15.05 - ", "01/06/24 15.06 - "),
    "cs": ("31.05.24 15:05 - ", "01.06.24 15:06 - "),
    "hr": ("31. 05. 2024. 15:05 - ", "01. 06. 2024. 15:06 - "),
    "hu": ("2024. 05. 31. 15:05 - ", "2024. 06. 01. 15:06 - "),
    "hu 12h": ("2024. 05. 31. du. 3:05 - ", "2024. 06. 01. du. 3:06 - "),
    "sl": ("31. 5. 24 15:05 - ", "1. 6. 24 15:06 - "),
    "es 12h": ("31/5/24, 3:05 p.\xa0m. - ", "1/6/24, 3:06 p.\xa0m. - "),
    "es-MX": ("31/05/24 3:05 p.\u202fm. - ", "01/06/24 3:06 p.\u202fm. - "),
    "pt-BR": ("31/05/2024 15:05 - ", "01/06/2024 15:06 - "),
    "pt às": ("31/05/2024 às 15:05 - ", "01/06/2024 às 15:06 - "),
    "it": ("31/05/24, 15:05 - ", "01/06/24, 15:06 - "),
    "fr": ("31/05/2024 à 15:05 - ", "01/06/2024 à 15:06 - "),
    "fr-CA": ("2024-05-31 15 h 05 - ", "2024-06-01 15 h 06 - "),
    "en-US": ("5/31/24, 3:05\u202fPM - ", "6/1/24, 3:06\u202fPM - "),
    "en-US iOS": ("[5/31/24, 3:05:01\u202fPM] ", "[6/1/24, 3:06:01\u202fPM] "),
    "en-ZA": ("2024/05/31, 15:05 - ", "2024/06/01, 15:06 - "),
    "en dash": ("31/05/24, 15:05 – ", "01/06/24, 15:06 – "),
    "ru": ("31.05.2024, 15:05 - ", "01.06.2024, 15:06 - "),
    "uk": ("31.05.24, 15:05 - ", "01.06.24, 15:06 - "),
    "uk o": ("31.05.24 о 15:05 - ", "01.06.24 о 15:06 - "),
    "ur": ("31/5/24، 3:05 PM - ", "1/6/24، 3:06 PM - "),
    "sq": ("31.5.24, 3:05 e pasdites - ", "1.6.24, 3:06 e pasdites - "),
    "et": ("31.05.24 15:05 - ", "01.06.24 15:06 - "),
    "lt": ("2024-05-31 15:05 - ", "2024-06-01 15:06 - "),
    "sw": ("31/05/2024 15:05 - ", "01/06/2024 15:06 - "),
    "eu": ("2024/5/31 (15:05) - ", "2024/6/1 (15:06) - "),
    "am": ("31/05/2024 ከሰዓት 3:05 - ", "01/06/2024 ከሰዓት 3:06 - "),
    "my": ("31/5/24 15:05 - ", "1/6/24 15:06 - "),
    "my digits": ("၃၁/၅/၂၄ ၁၅:၀၅ - ", "၁/၆/၂၄ ၁၅:၀၆ - "),
}
MEGABYTE = 2**20


def turns(path: Path, me: str = "Kim") -> tuple[list[list[str]], ImportReport]:
    """(the texts of each conversation, the report)."""
    examples, report = import_examples(path, ImportOptions.of(me))
    return [[text for _, text in example.messages or ()] for example in examples], report


@pytest.mark.parametrize("name", FORMS)
def test_every_language_is_read(tmp_path: Path, name: str) -> None:
    first, second = FORMS[name]
    path = tmp_path / "chat.txt"
    path.write_text(
        f"{first}Anna: hers\n{first}Kim: mine\ngoes on\n{second}Anna: hers again\n{second}Kim: mine again\n"
    )
    found, report = turns(path)
    assert found == [["hers", "mine\ngoes on"], ["hers again", "mine again"]]
    assert report.kinds == {str(path): "WhatsApp"}


def test_two_digit_years_first() -> None:
    dates = Dates()
    for line in ("24. 5. 31. 오후 3:05 - A: x", "24. 6. 1. 오후 3:05 - A: x"):
        each = dated(line)
        assert each is not None
        dates.add(each)
    assert dates.order() == "ymd"
    assert each.hour == 15


def test_a_night_over_the_end_of_february_is_no_pause(tmp_path: Path) -> None:
    path = tmp_path / "chat.txt"
    path.write_text(
        "28/2/24, 23:59 - Anna: a\n29/2/24, 00:01 - Kim: b\n29/2/24, 23:59 - Anna: c\n1/3/24, 00:01 - Kim: d\n"
        "29/2/67, 23:59 - Anna: e\n1/3/67, 00:01 - Kim: f\n"
    )
    assert turns(path)[0] == [["a", "b"], ["c", "d"], ["e", "f"]]


@pytest.mark.parametrize(
    "line",
    [
        "31 May 2024, 22:03 - Anna: hers",
        "31.12.23, 10:03 qx - Anna: hers",
        "31.12.23 22:03 Anna",
        "Jun 1, 2024 3:05 PM Anna: hers",
    ],
)
def test_a_line_of_an_unknown_form_never_joins_the_message_before(tmp_path: Path, line: str) -> None:
    assert dated(line) is None
    assert like_dated(line)
    path = tmp_path / "chat.txt"
    path.write_text(
        f"31.12.23, 22:01 - Anna: hi\n31.12.23, 22:02 - Kim: mine\n{line}\nhers too\n31.12.23, 22:04 - Kim: yes\n"
    )
    found, report = turns(path)
    assert found == [["hi", "mine\nyes"]]
    (reason, counted), *_ = report.refused.items()
    assert "not known" in reason
    assert counted.places == [f"{path}:3"]


def test_what_the_app_writes_is_not_learned(tmp_path: Path) -> None:
    path = tmp_path / "chat.txt"
    path.write_text(
        "31/12/23 22:01 - Ana: q\n31/12/23 22:02 - Kim: Você apagou esta mensagem\n"
        "31/12/23 22:03 - Kim: sim claro <Mensagem editada>\n31/12/23 22:04 - Kim: Standort: https://maps.google.com/?q=1.5,2.5\n"
        "31/12/23 22:05 - Kim: UMFRAGE:\nWohin?\nOPTION: Berg (1 Stimme)\n31/12/23 22:06 - Kim: live location shared\n"
        "31/12/23 22:07 - Kim: WOW: that was <3 a lot <b>\n"
    )
    assert turns(path)[0] == [["q", "sim claro\nWOW: that was <3 a lot <b>"]]


def test_the_mark_of_the_app_needs_no_words(tmp_path: Path) -> None:
    path = tmp_path / "_chat.txt"
    path.write_text(
        "[31/12/23, 22:00:01] Ana: q\n\u200e[31/12/23, 22:00:02] Kim: quelque chose\n"
        "\u200e[31/12/23, 22:00:03] Kim: the caption \u200e<jointe: x.jpg>\n[31/12/23, 22:00:04] Kim: yes\n"
    )
    assert turns(path)[0] == [["q", "the caption\nyes"]]


def test_every_wording_is_found_and_has_its_source() -> None:
    for table in (DELETED, MISSED):
        for source, line in table.items():
            assert "." in source
            assert all(is_gone(words) and is_gone(f"{words.capitalize()}.") for words in line.split("|"))
    assert all(is_edited_mark(words) for line in EDITED.values() for words in line.split("|"))
    assert not is_gone("I deleted this message yesterday")
    assert not is_edited_mark("b")


@pytest.mark.parametrize(
    "piece",
    [
        "1",
        "1/1/24 ",
        "1.",
        " ",
        "\u200e",
        "[",
        "<a b> ",
        " <Ab ",
        ":",
        "a",
        "1:1",
        "ABC: ",
        "a.jpg (",
        "abcdefg, ",
        "\n",
    ],
)
@pytest.mark.parametrize("head", ["", "31/12/23, 22:00 - Anna: hi\n31/12/23, 22:01 - Kim: ", "12:00 Anna: x\n"])
def test_no_megabyte_takes_long(tmp_path: Path, head: str, piece: str) -> None:
    path = tmp_path / "x.txt"
    path.write_text(head + (piece * (MEGABYTE // len(piece) + 1))[:MEGABYTE])
    began = time.perf_counter()
    with contextlib.suppress(DataError):
        list(read_all(path, Tally(ImportOptions.of("Kim"), strict=False)))
    assert time.perf_counter() - began < 5
