"""What mail programs write around a quoted mail, in every language for which a public source was found.

Sources, by letter:
F  github.com/crisp-oss/email-forward-parser, lib/parser.js: Apple Mail, Gmail, Outlook, Thunderbird and Yahoo in 21 languages
R  github.com/crisp-oss/email-reply-parser, lib/regex.ts
P  github.com/alfonsrv/mail-parser-reply, mailparser_reply/constants.py
T  github.com/mailgun/talon, talon/quotations.py
L  a mail of 22 March 2024 on lore.kernel.org/linux-kernel whose quote Outlook in traditional Chinese made
"""

from __future__ import annotations

import re


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split("|"))


FROM = _words(  # F, except where a letter says otherwise
    "from|od|fra|von|de|lähettäjä|šalje|feladó|da|van|expeditorul|отправитель|från|kimden|від кого|saatja|de la"
    "|gönderen|от|від|mittente|nadawca"
    "|发件人|보낸 사람|보낸사람|寄件者"  # P, P, P, L
)
SENT = _words(  # F
    "date|datum|dato|fecha|päivämäärä|dátum|data|dată|дата|tarih|sent|päiväys|sendt|gesendet|enviado|envoyé|lähetetty"
    "|elküldve|inviato|verzonden|wysłano|trimis|отправлено|odoslané|skickat|gönderilen|відправлено"
    "|odesláno|发送时间|보낸 날짜|보낸날짜|寄件日期"  # P, P, P, P, L
)
TO = _words(  # F
    "to|komu|til|an|para|vastaanottaja|à|prima|címzett|a|aan|do|destinatarul|кому|pre|till|kime|pour|adresat|către"
    "|收件人|받는 사람|받는사람|收件者"  # P, P, P, L
)
SUBJECT = _words(  # F
    "subject|předmět|emne|betreff|asunto|aihe|objet|predmet|tárgy|oggetto|onderwerp|temat|assunto|subiectul|subiect"
    "|тема|ämne|konu|sujet|naslov"
    "|主题|제목|主旨"  # P, P, L
)
COPY = _words(  # F
    "cc|kopie|kopio|másolat|kopi|dw|копия|kopia|bilgi|копія|másolatot kap|kópia|kopie (cc)|copie à|抄送|참조|副本"
)

WROTE = re.compile(
    r"\b(?:wrote|sent|écrit|escribió|scritto|escreveu|schrieb|geschrieben|schreef|geschreven|verzond|pisze|napisał"
    r"|nadesłał|skrev|kirjoitti|napsal|napísal|írta|написал|написала|yazdı)\b"  # R, T and F
    r"|写道|작성|のメッセージ",  # R, P
    re.IGNORECASE,
)

_BEFORE_QUOTE = (  # F, R and T; Gmail writes the first in every language
    "forwarded message|original message|reply message|přeposlaná zpráva|videresendt meddelelse|weitergeleitete nachricht"
    "|mensaje reenviado|edelleenlähetetty viesti|message transmis|továbbított üzenet|messaggio inoltrato"
    "|doorgestuurd bericht|videresendt melding|przekazana wiadomość|mensagem reencaminhada|mensagem encaminhada"
    "|mesaj redirecționat|пересылаемое сообщение|preposlaná správa|vidarebefordrat meddelande|i̇letilmiş mesaj"
    "|перенаправлене повідомлення|välitetty viesti|message transféré|proslijeđena poruka|treść przekazanej wiadomości"
    "|перенаправленное сообщение|i̇letilen i̇leti|переслане повідомлення|oprindelig besked|oprindelig meddelelse"
    "|message d'origine|ursprüngliche nachricht|antwort nachricht"
)
RULE = re.compile(r"\s*-{3,}\s*(?:" + _BEFORE_QUOTE + r")\b.{0,40}", re.IGNORECASE)
LINE = re.compile(r"\s*_{20,}\s*")  # Outlook on the web, in every language: F
FORWARDED = re.compile(  # Apple Mail: F
    r"\s*(?:begin forwarded message|začátek přeposílané zprávy|start på videresendt besked"
    r"|anfang der weitergeleiteten nachricht|inicio del mensaje reenviado|välitetty viesti alkaa"
    r"|début du message réexpédié|début du message transféré|započni proslijeđenu poruku|továbbított levél kezdete"
    r"|inizio messaggio inoltrato|begin doorgestuurd bericht|videresendt melding|początek przekazywanej wiadomości"
    r"|início da mensagem reencaminhada|início da mensagem encaminhada|începe mesajul redirecționat"
    r"|начало переадресованного сообщения|začiatok preposlanej správy|vidarebefordrat mejl|i̇leti başlangıcı"
    r"|початок листа, що пересилається)\s?:\s*",
    re.IGNORECASE,
)

_APP = r"(?:outlook|mail|yahoo|gmail|proton|samsung|aol|iphone|ipad|android|blackberry)\b"
DEVICE = re.compile(  # R and P; a program's name is asked for where the words alone could be a sentence
    r"\s*(?:"
    r"(?:sent from my|envoyé de mon|enviado desde mi|enviado do meu|inviato dal mio|verzonden vanaf mijn|verstuurd vanaf mijn"
    r"|gesendet von mein\w*|skickat från min|sendt fra min|odesláno z mého)\s.{1,40}"
    r"|(?:sent from|sent via|gesendet von|sendt fra|envoyé depuis|envoyé à partir de|enviado desde|inviato da"
    r"|verzonden vanaf|verstuurd vanaf|skickat från|wysłano z|отправлено с)\s(?:.{0,20}\s)?" + _APP + r".{0,60}"
    r"|(?:get outlook for|télécharger outlook pour|hent outlook til)\s.{1,80}"
    r"|von mein\w*\s.{1,30}\sgesendet"
    r"|从我的.{1,30}发送|내 .{1,30}에서 보냄|(?:iphone|ipad)から送信"
    r")\s*",
    re.IGNORECASE,
)
