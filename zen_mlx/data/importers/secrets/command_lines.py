"""Secrets by their place in a command, an address or the file of a tool: `mysql -p...`, `curl -u`, `://user:pass@`, netrc.

Each place is the one that the tool's own manual gives: mysql, sshpass, redis-cli, docker login, curl, wget, smbclient,
ldapsearch, sqlcmd, openssl, zip, 7z, net use, htpasswd; PostgreSQL's .pgpass, MySQL's IDENTIFIED BY, GNU inetutils' .netrc,
the Wi-Fi code of zxing, the Key URI of Google Authenticator.
"""

from __future__ import annotations

import base64
import re
from collections import Counter

from . import values
from .placeholders import KEY, PASSWORD, substitute

_VALUE = r"(?P<quote>[\"'])?(?P<value>(?(quote)(?:(?!(?P=quote))[^\n]){1,256}|[^\s\"']{1,256}))"
_LOGIN = re.compile(
    r"(?<=://)(?P<value>[^\s/:\"'<>]{0,128}:(?:[^\s/@\"'<>]{1,256}|[^\s\"'<>]{1,256}(?=@[\w.-]{1,253}"
    r"(?:[:/?\s\"']|$))))(?=@)"
)
_PORT = re.compile(r"\d{1,5}(?:/|$)")
_ARGUMENT = r"(?:[ \t]+(?!-p)[^\s|;&]{1,80}){0,8}?"
_COMMANDS = tuple(
    re.compile(rf"(?<![\w-])(?:{tools}){_ARGUMENT}[ \t]+{option}{_VALUE}")
    for tools, option in (
        (r"(?:mysql|mariadb)[a-z_-]{0,12}|7z[ar]?|sshpass|plink|pscp|psftp", r"-p(?![ \t])"),
        (
            r"sshpass|(?:docker|podman|helm registry|oc|az) login|mongo(?:sh|dump|restore)?|plink|pscp|nexus",
            r"-p[ \t]+",
        ),
        (r"plink|pscp|psftp", r"-pw[ \t]+"),
        (r"redis-cli|redis-benchmark", r"-a[ \t]*"),
        (r"sqlcmd|bcp|zip|unzip|sqlplus|ipmitool|impacket-\w+|nxc|crackmapexec", r"-P[ \t]*"),
        (r"ldap(?:search|add|modify|delete|passwd|whoami)", r"-w[ \t]+"),
        (r"rar|unrar", r"-h?p"),
        (r"openssl enc", r"-k[ \t]+"),
        (r"xfreerdp|wfreerdp|mstsc", r"/p:"),
    )
)
_USER = tuple(
    re.compile(pattern)
    for pattern in (
        r"(?<![\w-])(?:curl|http|https|xh|wget)"
        + _ARGUMENT
        + r"[ \t]+(?:-u|--user|--proxy-user|-U|-a|--auth)[ \t=]*(?P<quote>[\"'])?[^\s:\"']{0,128}:"
        r"(?P<value>(?(quote)(?:(?!(?P=quote))[^\n]){1,256}|[^\s\"']{1,256}))",
        r"(?<![\w-])(?:smbclient|rpcclient|mount\.cifs|net)"
        + _ARGUMENT
        + r"[ \t]+(?:-U|--user)[ \t=]*[\"']?[^\s%\"']{1,128}%(?P<value>[^\s\"']{1,256})",
        r"(?i)\bnet use[ \t]+(?:\w:[ \t]+)?\\\\[^\s]{1,200}[ \t]+(?P<value>[^\s/][^\s]{0,255})[ \t]+/user:",
        r"(?i)\bnet use[ \t]+(?:\w:[ \t]+)?\\\\[^\s]{1,200}[ \t]+/user:[^\s]{1,128}[ \t]+(?P<value>[^\s/][^\s]{0,255})",
        r"\bnet user[ \t]+\w[\w.-]{0,63}[ \t]+(?P<value>[^\s/*][^\s]{0,255})[ \t]+/add",
        r"\bhtpasswd[ \t]+(?:-[a-zA-Z]{1,6}[ \t]+)*-\w{0,5}b\w{0,5}[ \t]+(?:[^\s-]\S{0,200}[ \t]+)?\S{1,128}"
        r"[ \t]+(?P<value>\S{1,256})[ \t]*(?:$|\n)",
        r"(?:-pass(?:in|out)?|-passphrase)[ \t]+[\"']?pass:(?P<value>[^\s\"']{1,256})",
        r"(?i)\bIDENTIFIED[ \t]+(?:WITH[ \t]+['\"]?\w{1,40}['\"]?[ \t]+)?(?:BY|AS)[ \t]+(?:PASSWORD[ \t]+)?[\"']"
        r"(?P<value>[^\"'\n]{1,256})[\"']",
        r"\bIDENTIFIED[ \t]+(?:WITH[ \t]+\w{1,40}[ \t]+)?BY[ \t]+(?P<value>[^\s;\"']{1,256})",
        r"(?i)\bConvertTo-SecureString[ \t]+(?:-String[ \t]+)?(?:-Force[ \t]+)?\\?[\"'](?P<value>[^\"'\n\\]{1,256})",
        r"\becho[ \t]+(?:-n[ \t]+)?[\"']?(?P<value>[^\s\"'|]{1,256})[\"']?[ \t]*\|[ \t]*(?:sudo[ \t]+-\w*S|passw"
        r"d[ \t]+--stdin|docker login)",
        r"\becho[ \t]+[\"']?[\w.-]{1,64}:(?P<value>[^\s\"'|]{1,256})[\"']?[ \t]*\|[ \t]*(?:sudo[ \t]+)?chpasswd",
        r"(?m)^[ \t]*(?:requirepass|masterauth|stats auth \S{1,64}:)[ \t]+[\"']?(?P<value>[^\s\"']{1,256})",
        r"\b(?:machine[ \t]+\S{1,253}|default)\s{1,8}login[ \t]+\S{1,128}\s{1,8}(?:account[ \t]+\S{1,128}\s{1,8}"
        r")?password[ \t]+(?P<value>\S{1,256})",
        r"(?<!\S)(?:localhost|\*|[\w-]{1,63}(?:\.[\w-]{1,63}){1,8}):(?:\d{2,5}|\*):[\w*-]{1,64}:[\w*-]{1,64}:"
        r"(?P<value>[^\s:][^\s]{0,255})[ \t]*(?:$|\n)",
        r"\bWIFI:(?:[^\n;]{0,64};){0,4}P:(?P<value>(?:\\.|[^\n;\\]){1,128});",
        r"\botpauth://\w{4}/[^\s?]{0,200}\?(?:[^\s&]{1,100}&){0,4}secret=(?P<value>[A-Za-z2-7=]{8,128})",
        r"(?i)\b(?:id|user(?:name)?|login|e-?mail|benutzer(?:name)?|usuario|identifiant)[ ]?(?:/|&|\+|and|und|et"
        r"|y)[ ]?(?:pass(?:word|wort)?|pw|pwd|mot de passe"
        r"|contraseña)[ ]?[:=][ ]{0,2}(?P<value>[^\s/|:,]{1,64}[ ]?[/|:,][ ]?[^\s]{3,64})",
        r"\bjdbc:oracle:\w{1,8}:(?P<value>[\w.$-]{1,64}/[^\s@]{1,128})@",
        r"(?:\bauth[ ]?=[ ]?\(|BasicAuth\(|NetworkCredential\(|\.login\(|basic_auth\()[ ]?"
        r"(?:[\"'][^\"'\n]{0,64}[\"']|[\w.]{1,40}),[ ]?[\"'](?P<value>[^\"'\n]{1,128})[\"']",
        r"(?i)\b(?:seed|recovery|backup|mnemonic|secret|wallet)[ ](?:phrase|words?)\b[^\n:=]{0,24}[:=]\s{0,3}"
        r"[\"'`]?(?P<value>[a-z]{3,8}(?:[ ,]{1,2}[a-z]{3,8}){5,24})(?![a-z])",
    )
)
_PAIR = re.compile(
    r"(?i)\b(?:login|creds?|credentials|logins?|zugangsdaten)[ ]?[:=][ ]{0,2}"
    r"(?P<value>[\w.@+-]{2,64}(?P<between>[ ]?[/|:][ ]?)(?P<second>[^\s/|:]{4,64}))(?!\S)"
)
_ENCODED = re.compile(r"[\"']auth\\?[\"']\s?:\s?\\?[\"'](?P<value>[A-Za-z0-9+/]{8,512}={0,2})\\?[\"']")
_KEYS = tuple(
    re.compile(pattern)
    for pattern in (
        r"\b(?:vault login|gh auth login --with-token|npm config set \S{1,128}_authToken)[ \t=]+(?P<value>[^\s-]"
        r"\S{7,512})",
        r"(?i)\baws configure set \S{0,40}(?:secret_access_key|session_token)[ \t]+(?P<value>\S{16,2048})",
        r"(?i)\b(?:x-)?(?:api-?key|auth-?token|access-?token|api-?token|private-token)[\"']?[ \t]*:[ \t]*[\"']?"
        r"(?P<value>[^\s\"',;]{8,512})",
    )
)
_HINTS = (
    *(f" {option}" for option in ("-p", "-u", "-a", "-w", "-h", "-k", "--user", "--proxy", "/p:")),
    *(
        "-pass",
        "-key",
        "-token",
        "apikey",
        "authtoken",
        "auth",
        "net us",
        "htpasswd",
        "identified",
        "securestring",
        "echo",
        "vault",
    ),
    *(
        "login",
        "user",
        "default",
        "wifi:",
        "otpauth:",
        "phrase",
        "words",
        "cred",
        "mail",
        "zugang",
        "access",
        "benutzer",
    ),
    *("usuario", "identifiant", "aws configure", "requirepass", "masterauth", "id/", "id /"),
)
"""What a text must have one of, or four colons, before the expressions are tried."""


def scrub_command_lines(text: str, counts: Counter[str]) -> str:
    """`text` without the passwords of commands, addresses and the files of tools."""
    if "://" in text:
        text = substitute(_LOGIN, text, PASSWORD, counts, lambda match: not _spare(match["value"]))
    low = text.lower().replace("\t", " ")
    if not any(hint in low for hint in _HINTS) and text.count(":") < 4:
        return text
    for pattern in (*_COMMANDS, *_USER):
        text = substitute(pattern, text, PASSWORD, counts, _is_secret)
    text = substitute(_PAIR, text, PASSWORD, counts, _is_pair)
    text = substitute(_ENCODED, text, KEY, counts, _is_encoded_login)
    for pattern in _KEYS:
        text = substitute(pattern, text, KEY, counts, _is_secret)
    return text


def _is_secret(match: re.Match[str]) -> bool:
    return not values.is_reference(match["value"]) and "[" + PASSWORD not in match["value"]


def _is_pair(match: re.Match[str]) -> bool:
    second, apart = match["second"], " " in match["between"] or ":" in match["between"]
    return _is_secret(match) and not values.is_number(second) and (apart or values.is_mixed(second))


def _is_encoded_login(match: re.Match[str]) -> bool:
    """True for `user:password` in base 64, as Docker's configuration has it."""
    try:
        return b":" in base64.b64decode(match["value"], validate=True)
    except ValueError:
        return False


def _spare(login: str) -> bool:
    """True for what an address shows in the place of a login: `user:password`, `$USER:$PASS`, `{name}:{token}`."""
    user, _, password = login.partition(":")
    return values.is_reference(password) or (("." in user or user == "localhost") and bool(_PORT.match(password)))
