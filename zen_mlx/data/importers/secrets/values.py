"""Does a value look like a secret, or like a word, a number, a variable or a piece of code?"""

from __future__ import annotations

import re


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_EMPTY = _words(
    """
    none null nil undefined true false yes no on off str string text int integer number bool boolean char
    varchar bytes any object array list dict optional required mandatory missing invalid incorrect wrong empty
    blank unset unknown hidden masked redacted removed password passwd token username email value field
    placeholder tbd todo n/a expired forgotten obligatoire requis obligatoria obbligatoria obrigatória
    """
)
_SAID = _EMPTY | _words(
    """
    a an the this that your my our his her their its to for of in at as by with from and or not ok secret key
    user login input type see ask use using used enter set reset change changed forgot try again kein keine pas
    non não нет expires expire valid is was are be must should will can may has have same below above attached
    attachment separately here there please new old default what which when where who how why if only also then
    than still very too now it we you they he she i me him them all some each every one two strong weak min max
    minimum maximum length at least between up example sample siehe ist war wird kommt folgt wie der die das den
    dem ein eine im mit und oder nicht per vergessen geändert abgelaufen bitte voir est sera le la les un une
    dans avec et ou par oublié identique inconnu ver es el los las una por con en y o igual olvidada incorrecta
    misma vedi è il lo di uguale smarrita zie het een met vergeten os as um uma com em e de esquecida jest w z i
    lub nie patrz это в на с и или не как тот тоже смотри забыт
    """
)
_ROOTS = _words(
    """
    self this os process env environ config conf cfg settings args argv opts options request req ctx context
    params form user data event props state session secrets getpass app body input system vault module local var
    each item row record credentials creds auth account client db database values inputs github matrix steps
    needs
    """
)
_SECRET_WORD = re.compile(
    r"(?:user|new|old|my|your|the|db|root|admin|hashed|plain|encrypted|raw|confirm|current|repeat|default|access|api|auth|client"
    r"|refresh|secret|private|bearer|enter|example|some|input|login|hash|get|set|to|from)*"
    r"(?:pass(?:word|wd|phrase|code|wort)?|pwd?|secret|token|key|credentials?|kennwort)s?"
    r"(?:hash|field|input|here|value|str|string|text|confirm|confirmation|again|file|path|name|id|env|var|key|encoder|hashed)*\d?"
)
_SAME_WORD = re.compile(
    r"(?:user|new|old|hashed)?(?:pass(?:word|wd|phrase|code|wort)?|pwd?|secret|token|key|kennwort)s?"
)
_REFERENCE = re.compile(
    r"""\$\{.*|\$\(.*|\$[A-Z_][A-Z0-9_]*|\$(?:\w+:)?\w*(?i:pass|pw|secret|token|key|cred)\w*|\$\w+(?:->|\[|\.|::).*
    |\{\{?[ \w.$-]*\}{0,2}|https?://[^@\s]*|<[^<>]*>?|%\(\w*\)?s?|%[sdvq@]|%\w+%|\[.*|\#\{.*|@\w+@|:[a-z_]+|\?|&\w+|\\.*|[|>][+-]?
    |!(?:Ref|Sub|GetAtt|ImportValue|secret|vault|env)\b.*
    |[A-Za-z_][\w.:>-]{0,80}\(\d*\)[\[.].*|\w+\)+\.\w+\(.*|[A-Za-z_][\w.:>-]{0,80}\((?:\)?|[A-Za-z_'"].*|\).*)
    |\w+(?:->|::)[\w>:-]+.*|[A-Za-z_][\w.]*\[.*|[A-Z]+\(\d+\),?|(?:/[a-z-]+)+/?|r?b?f?["'].*""",
    re.VERBOSE,
)
_NAMED = re.compile(r"[A-Za-z_.-]*[_.-]+(?i:pass(?:word|wd|phrase)?|pwd?|secrets?|tokens?|keys?|credentials?)")
_DOTTED = re.compile(r"[A-Za-z_]\w*(?:\??\.[A-Za-z_]\w*)+")
_MEASURE = re.compile(
    r"""v?\d{1,6}(?:[.,:/x×*-]\d+)*(?:\s?[A-Za-z%°]{1,4}|[A-Za-z]{1,10}s?)?\d?|[<>~=+-]*\d[\d.,]*\+?|\d+(?:st|nd|rd|th)
    |\d{1,4}[./-]\d{1,2}[./-]\d{1,4}(?:[T ]?\d.*)?|\d{1,2}:\d\d.*|\d+[kKMGT]?[x×]\d+(?:[x×]\d+)?\w{0,3}""",
    re.VERBOSE,
)
_FILE = re.compile(
    r"(?:[~.]{0,2}[/\\]|[A-Za-z]:\\)[\w./\\ ~-]*|(?:[^\W\d]*|\d*)(?:[/\\](?:[^\W\d]+|\d+))+"
    r"|[\w./\\-]+\.(?:pem|key|crt|cer|json|ya?ml|txt|toml|ini|env|conf|md|py|js|ts|html?|pdf|docx?)"
)
_PLAIN = re.compile(r"[^\W\d_]+(?:['’-][^\W\d_]+)*")


def is_reference(value: str) -> bool:
    """True for what stands in the place of a secret: a variable, a call, a mark of a template, stars, `YOUR_TOKEN`."""
    if not value or (len(set(value)) == 1 and not value.isalnum()) or _REFERENCE.fullmatch(value):
        return True
    value = value.lstrip("(")
    joined = re.sub(r"[\W_]", "", value.lower())
    if not joined or set(joined) <= {"x"} or joined.startswith("your"):
        return True
    if (_SAME_WORD if joined == value else _SECRET_WORD).fullmatch(joined):
        return True
    if _NAMED.fullmatch(value):
        return True
    if _DOTTED.fullmatch(value):
        pieces = value.lower().split(".")
        return pieces[0].rstrip("?") in _ROOTS or bool(_SECRET_WORD.fullmatch(re.sub(r"[\W_]", "", pieces[-1])))
    return False


def is_said(value: str, in_prose: bool) -> bool:
    """True for a word that says there is no value here, or, in prose, that begins a sentence about one."""
    return value.lower().rstrip(".,;:!?") in (_SAID if in_prose else _EMPTY)


def is_word(value: str) -> bool:
    """True for letters alone, with a hyphen or apostrophe between them."""
    return bool(_PLAIN.fullmatch(value))


def is_number(value: str) -> bool:
    """True for a count, a date, a time, a size or a version."""
    return bool(_MEASURE.fullmatch(value))


def is_mixed(value: str) -> bool:
    """True when nobody would write it as a word: digits among letters, or marks; not a date, a size or a file."""
    if (_MEASURE.fullmatch(value) and not value.isdigit()) or _FILE.fullmatch(value) or "://" in value:
        return False
    digits, letters = any(map(str.isdigit, value)), any(map(str.isalpha, value))
    return (digits and letters) or any(letter in "!@#$%^&*+~" for letter in value) or (digits and len(value) >= 4)


def is_product_key(value: str) -> bool:
    """True for groups of capitals and digits with hyphens, as on a license."""
    return bool(re.fullmatch(r"(?=.*\d)[A-Z0-9]{4,6}(?:-[A-Z0-9]{4,6}){3,7}", value))


def is_made(value: str, least: int) -> bool:
    """True when a machine made it: `least` characters or more, digits and letters in turn, not words joined by hyphens."""
    if len(value) < least or "://" in value or _MEASURE.fullmatch(value) or _FILE.fullmatch(value):
        return False
    if is_product_key(value):
        return True
    if sum(map(str.isdigit, value)) < 2 or not any(map(str.isalpha, value)):
        return False
    pieces = [piece for piece in re.split(r"[-_./:+ ]", value) if piece]
    return len(pieces) == 1 or not all(piece.isalpha() or piece.isdigit() for piece in pieces)
