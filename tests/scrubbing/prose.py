"""Ordinary lines in ten languages, from short patterns and words: letters, chats and notes with dates, prices and names."""

from __future__ import annotations

import random

from . import SEED

# language -> patterns; {n} a noun, {p} a person, {d} a day, {t} a time, {a} an amount, {c} a count
PATTERNS: dict[str, tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]] = {
    "en": (
        (
            "I left the {n} at the station, so {p} will bring it on {d} at {t}.",
            "The {n} costs {a}, which is more than {p} paid for the whole trip.",
            "{p} forgot the password again: it is the third time this week.",
            "Note to self: buy a {n}, call {p}, water the plants.",
            "The key is under the {n}, as always; {p} knows.",
            "My boarding pass is on the phone, gate B12 opens at {t}.",
            "About {c} people came to see the {n}, said {p}.",
            "The secret of a good {n}: patience, and a little luck.",
            "Chapter {s}: in which {p} finds the {n} and says nothing.",
            "PS: the token of thanks was a {n}, nothing more.",
        ),
        ("umbrella", "bicycle", "garden", "lamp", "kettle", "violin"),
        ("Anna", "Tom", "Mrs Hill", "the neighbour"),
    ),
    "de": (
        (
            "Ich habe {n} am Bahnhof vergessen, {p} bringt es am {d} um {t} mit.",
            "Das kostet {a}, mehr als {p} für die ganze Reise gezahlt hat.",
            "{p} hat das Passwort schon wieder vergessen: zum dritten Mal diese Woche.",
            "Der Schlüssel liegt unter der Matte, {p} weiß Bescheid.",
            "Rund {c} Menschen kamen, um {n} zu sehen, sagte {p}.",
            "Kapitel {s}: {p} findet {n} und schweigt.",
            "Der Pass ist gesperrt: am {d} liegt noch Schnee.",
            "Übrigens: {n} gehört mir, nicht {p}.",
        ),
        ("das Fahrrad", "den Schirm", "die Lampe", "den Garten"),
        ("Anna", "Herr Vogel", "meine Schwester", "Jonas"),
    ),
    "fr": (
        (
            "J'ai oublié {n} à la gare, {p} l'apporte le {d} à {t}.",
            "Cela coûte {a}, plus que ce que {p} a payé pour tout le voyage.",
            "{p} a encore oublié son mot de passe : c'est la troisième fois.",
            "La clé est sous le paillasson : {p} le sait.",
            "Environ {c} personnes sont venues voir {n}, dit {p}.",
            "Chapitre {s} : {p} trouve {n} et se tait.",
            "Il n'y a pas de mot de passe ici : entrez donc.",
        ),
        ("le vélo", "le parapluie", "la lampe", "le jardin"),
        ("Anne", "M. Petit", "ma soeur", "Luc"),
    ),
    "es": (
        (
            "Olvidé {n} en la estación; {p} lo trae el {d} a las {t}.",
            "Cuesta {a}, más de lo que pagó {p} por todo el viaje.",
            "{p} olvidó la contraseña otra vez: ya van tres esta semana.",
            "La clave del éxito: paciencia y {n}.",
            "Unas {c} personas vinieron a ver {n}, dijo {p}.",
            "Capítulo {s}: {p} encuentra {n} y calla.",
        ),
        ("la bicicleta", "el paraguas", "la lámpara", "el jardín"),
        ("Ana", "el señor Gil", "mi hermana", "Luis"),
    ),
    "it": (
        (
            "Ho dimenticato {n} alla stazione, {p} lo porta il {d} alle {t}.",
            "Costa {a}, più di quanto {p} ha speso per tutto il viaggio.",
            "{p} ha dimenticato di nuovo la password: è la terza volta.",
            "La parola giusta è {n}, disse {p}.",
            "Circa {c} persone sono venute a vedere {n}.",
            "Capitolo {s}: {p} trova {n} e tace.",
        ),
        ("la bicicletta", "l'ombrello", "la lampada", "il giardino"),
        ("Anna", "il signor Riva", "mia sorella", "Luca"),
    ),
    "pt": (
        (
            "Esqueci {n} na estação; {p} traz no dia {d} às {t}.",
            "Custa {a}, mais do que {p} pagou por toda a viagem.",
            "{p} esqueceu a senha de novo: é a terceira vez esta semana.",
            "Tire uma senha e espere: {p} chama.",
            "Cerca de {c} pessoas vieram ver {n}, disse {p}.",
            "Capítulo {s}: {p} encontra {n} e cala-se.",
        ),
        ("a bicicleta", "o guarda-chuva", "a lâmpada", "o jardim"),
        ("Ana", "o senhor Reis", "minha irmã", "Rui"),
    ),
    "nl": (
        (
            "Ik heb {n} op het station laten liggen, {p} brengt het op {d} om {t} mee.",
            "Het kost {a}, meer dan {p} voor de hele reis heeft betaald.",
            "{p} is het wachtwoord weer vergeten: de derde keer deze week.",
            "De sleutel ligt onder de mat, {p} weet ervan.",
            "Zo'n {c} mensen kwamen {n} bekijken, zei {p}.",
            "Hoofdstuk {s}: {p} vindt {n} en zwijgt.",
        ),
        ("de fiets", "de paraplu", "de lamp", "de tuin"),
        ("Anna", "meneer Vos", "mijn zus", "Daan"),
    ),
    "pl": (
        (
            "Zapomniałem {n} na dworcu, {p} przyniesie {d} o {t}.",
            "To kosztuje {a}, więcej niż {p} zapłacił za całą podróż.",
            "{p} znowu nie pamięta hasła: trzeci raz w tym tygodniu.",
            "Hasło dnia: cierpliwość i jeszcze raz cierpliwość.",
            "Około {c} osób przyszło zobaczyć {n}, powiedział {p}.",
            "Rozdział {s}: {p} znajduje {n} i milczy.",
        ),
        ("rower", "parasol", "lampę", "ogród"),
        ("Anna", "pan Lis", "moja siostra", "Marek"),
    ),
    "ru": (
        (
            "Я забыл {n} на вокзале, {p} принесёт {d} в {t}.",
            "Это стоит {a}, больше, чем {p} заплатил за всю поездку.",
            "{p} опять не помнит пароль: третий раз за неделю.",
            "Ключ под ковриком: {p} знает.",
            "Около {c} человек пришли посмотреть на {n}, сказал {p}.",
            "Глава {s}: {p} находит {n} и молчит.",
        ),
        ("велосипед", "зонт", "лампу", "сад"),
        ("Анна", "сосед", "моя сестра", "Марк"),
    ),
    "ja": (
        (
            "駅に{n}を忘れたので、{p}が{d}の{t}に持ってきます。",
            "値段は{a}で、{p}の旅費より高い。",
            "{p}はまたパスワードを忘れた：今週三回目です。",
            "鍵はいつもの所：{p}が知っています。",
            "{c}人くらいが{n}を見に来たと{p}が言った。",
            "第{s}章：{p}は{n}を見つけて黙っている。",
        ),
        ("自転車", "傘", "ランプ", "庭"),
        ("アンナ", "田中さん", "妹", "隣の人"),
    ),
}


def lines(count: int, seed: int = SEED) -> list[str]:
    """`count` lines, as many of each language."""
    rng = random.Random(seed)
    languages = list(PATTERNS)
    return [_line(rng, *PATTERNS[languages[index % len(languages)]]) for index in range(count)]


def _line(rng: random.Random, patterns: tuple[str, ...], nouns: tuple[str, ...], people: tuple[str, ...]) -> str:
    day, month, year = rng.randrange(1, 29), rng.randrange(1, 13), rng.randrange(1990, 2030)
    amount = rng.randrange(1, 999)
    return rng.choice(patterns).format(
        n=rng.choice(nouns),
        p=rng.choice(people),
        d=rng.choice((f"{day}.{month}.{year}", f"{day}/{month}/{year}", f"{year}-{month:02}-{day:02}")),
        t=f"{rng.randrange(0, 24)}:{rng.randrange(0, 60):02}",
        a=rng.choice(
            (f"{amount} 000 zł", f"{amount},90 €", f"${amount}.50", f"{amount}.000 kr", f"1 {amount:03} 000 ¥")
        ),
        c=rng.choice((f"{amount} 000", f"{amount},000", f"{amount}.000.000", f"{amount} {rng.randrange(100, 999)}")),
        s=rng.randrange(1, 40),
    )
