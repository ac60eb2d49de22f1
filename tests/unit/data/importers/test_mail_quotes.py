"""The author's own words: quotes, their intros and headers, and signature lines go, in many languages."""

from __future__ import annotations

import time

import pytest

from zen_mlx.data.importers.mail_quotes import own_words

HEADERS = {
    "cs": ("Od: Jan <jan@x.org>", "Datum: pondělí", "Komu: Kim", "Předmět: x"),
    "da": ("Fra: Jan <jan@x.org>", "Sendt: mandag", "Til: Kim", "Emne: x"),
    "de": ("Von: Jan <jan@x.org>", "Gesendet: Montag", "An: Kim", "Betreff: x"),
    "en": ("*From:* Jan <jan@x.org>", "*Sent:* Monday", "*To:* Kim", "*Subject:* x"),
    "es": ("De: Jan <jan@x.org>", "Enviado: lunes", "Para: Kim", "Asunto: x"),
    "fi": ("Lähettäjä: Jan <jan@x.org>", "Lähetetty: maanantai", "Vastaanottaja: Kim", "Aihe: x"),
    "fr": ("De : Jan <jan@x.org>", "Envoyé : lundi", "À : Kim", "Objet : x"),
    "hr": ("Šalje: Jan <jan@x.org>", "Datum: ponedjeljak", "Prima: Kim", "Predmet: x"),
    "hu": ("Feladó: Jan <jan@x.org>", "Elküldve: hétfő", "Címzett: Kim", "Tárgy: x"),
    "it": ("Da: Jan <jan@x.org>", "Inviato: lunedì", "A: Kim", "Oggetto: x"),
    "ko": ("보낸 사람: Jan <jan@x.org>", "보낸 날짜: 월요일", "받는 사람: Kim", "제목: x"),
    "nl": ("Van: Jan", "Verzonden: 1 januari 2024 10:01", "Aan: Kim", "Onderwerp: x"),
    "pl": ("Od: Jan <jan@x.org>", "Wysłano: poniedziałek", "Do: Kim", "Temat: x"),
    "pt": ("De: Jan <jan@x.org>", "Enviado: segunda", "Para: Kim", "Assunto: x"),
    "ro": ("De la: Jan <jan@x.org>", "Trimis: luni", "Către: Kim", "Subiect: x"),
    "ru": ("От: Jan", "Отправлено: 1 января 2024 г. 10:01", "Кому: Kim", "Тема: x"),
    "sk": ("Od: Jan <jan@x.org>", "Odoslané: pondelok", "Komu: Kim", "Predmet: x"),
    "sv": ("Från: Jan <jan@x.org>", "Skickat: måndag", "Till: Kim", "Ämne: x"),
    "tr": ("Kimden: Jan <jan@x.org>", "Gönderilen: Pazartesi", "Kime: Kim", "Konu: x"),
    "uk": ("Від: Jan <jan@x.org>", "Відправлено: понеділок", "Кому: Kim", "Тема: x"),
    "zh": ("发件人：Jan <jan@x.org>", "发送时间：2024年1月1日 10:01", "收件人：Kim", "主题：x"),
    "zh-TW": ("寄件者: Jan <jan@x.org>", "寄件日期: 2024年1月1日 上午 10:01", "收件者: Kim", "主旨: x"),
}


@pytest.mark.parametrize("language", HEADERS)
def test_header_block(language: str) -> None:
    assert own_words("Mine.\n\n" + "\n".join(HEADERS[language]) + "\n\nAnother's.") == "Mine."


@pytest.mark.parametrize(
    "intro",
    [
        "On Mon, Jan 1, 2024 at 10:01 AM Jan <jan@x.org> wrote:",
        "On Mon, 1 Jan 2024 at 10:01, A Very Long Name\n<jan@x.org> wrote:",
        "El lun, 1 ene 2024 a las 10:01, Jan (<jan@x.org>) escribió:",
        "Il giorno lun 1 gen 2024 alle ore 10:01 Jan <jan@x.org> ha scritto:",
        "Op ma 1 jan 2024 om 10:01 schreef Jan <jan@x.org>:",
        "Den mån 1 jan. 2024 kl 10:01 skrev Jan <jan@x.org>:",
        "pon., 1 sty 2024 o 10:01 Jan <jan@x.org> napisał(a):",
        "пн, 1 янв. 2024 г. в 10:01, Jan <jan@x.org>:",
        "2024年1月1日(月) 10:01 Jan <jan@x.org>:",
        "Jan <jan@x.org> 于2024年1月1日周一 10:01写道：",
        "2024년 1월 1일 (월) 오전 10:01, Jan <jan@x.org>님이 작성:",
    ],
)
def test_intro(intro: str) -> None:
    assert own_words(f"Mine.\n\n{intro}\n\n> Another's.\n\nMine too.") == "Mine.\n\nMine too."


@pytest.mark.parametrize(
    "line",
    [
        "Sent from my iPhone",
        "Envoyé de mon iPad",
        "Von meinem iPhone gesendet",
        "Gesendet von Outlook für Android",
        "Verstuurd vanaf mijn iPhone",
        "Skickat från min iPhone",
        "Отправлено с iPhone",
        "iPhoneから送信",
        "从我的 iPhone 发送",
        "내 iPhone에서 보냄",
        "Get Outlook for Android<https://aka.ms/abc>",
    ],
)
def test_device_line(line: str) -> None:
    assert own_words(f"Mine.\n\n{line}") == "Mine."
    assert own_words(f"Mine.\n\n{line}\n\n> old\n\nMine too.") == "Mine.\n\nMine too."


@pytest.mark.parametrize(
    "text",
    [
        "Stops:\n\nFrom: Berlin\nTo: Hamburg\nDate: Friday\n\nMeet there.",
        "Da: Roma\nA: Milano\nData: venerdì\n\nCi vediamo.",
        "Sent from Berlin, with love",
        "I read the letter\nSent from my office yesterday\nand laughed.",
        "--- Summary ---\nAll is well.",
    ],
)
def test_what_only_looks_like_a_quote_stays(text: str) -> None:
    assert own_words(text) == text


def test_a_clock_and_a_colon_are_no_intro() -> None:
    assert own_words("Sie sagte um 10:30:\n> spät\nund ging.") == "Sie sagte um 10:30:\nund ging."


_INTRO = "On Mon, 1 Jan 2024 at 10:01, Ana wrote:\n"


@pytest.mark.parametrize(
    "unit",
    [_INTRO, _INTRO + "\n>\n", "> ", "\n\n\n>\n", "a:\n", "From: a\nTo: b\n", "2024 " * 70 + ":\n>\n", "Sent from my "],
)
def test_a_hostile_megabyte_takes_seconds(unit: str) -> None:
    begin = time.process_time()
    own_words(unit * (2**20 // len(unit)))
    assert time.process_time() - begin < 5
