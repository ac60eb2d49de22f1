"""What WhatsApp itself writes into a chat under a person's name, and where each wording can be read in public.

A wording stands here only with its source. What the app marks, with a mark of direction or in angle brackets alone in a
message, needs no words. docs/data.md lists the languages that are missing.
"""

from __future__ import annotations

import re

CHATCARVE = "github.com/JaydenCJ/chatcarve src/chatcarve/system.py"
ANALYZER = "github.com/koftezz/whatsapp-chat-analyzer src/whatsapp_analyzer/preprocessors/language_config.py"
EDITS = "github.com/koftezz/whatsapp-chat-analyzer/issues/18"
WHATSR = "github.com/gesiscss/WhatsR inst/Languages.csv"
HELP = "faq.whatsapp.com/1370476507114859/?locale="  # the app's own help, in that language
POLLS = "github.com/Pustur/whatsapp-chat-parser-website/issues/43"

DELETED = {
    "this message was deleted": CHATCARVE,
    "you deleted this message": CHATCARVE,
    "message deleted": WHATSR,
    "se eliminó este mensaje": CHATCARVE,
    "eliminaste este mensaje": CHATCARVE,
    "diese nachricht wurde gelöscht": CHATCARVE,
    "du hast diese nachricht gelöscht": CHATCARVE,
    "ce message a été supprimé": CHATCARVE,
    "vous avez supprimé ce message": CHATCARVE,
    "essa mensagem foi apagada": CHATCARVE,
    "você apagou esta mensagem": CHATCARVE,
    "apagou esta mensagem": CHATCARVE,
    "questo messaggio è stato eliminato": CHATCARVE,
    "hai eliminato questo messaggio": CHATCARVE,
    "dit bericht is verwijderd": CHATCARVE,
    "u hebt dit bericht verwijderd": CHATCARVE,
    "это сообщение было удалено": CHATCARVE,
    "вы удалили это сообщение": CHATCARVE,
    "bu mesaj silindi": CHATCARVE,
    "bu mesajı sildiniz": CHATCARVE,
    "このメッセージは削除されました": CHATCARVE,
    "メッセージを削除しました": CHATCARVE,
    "此訊息已刪除": CHATCARVE,
    "你已刪除這則訊息": CHATCARVE,
    "此消息已删除": CHATCARVE,
    "삭제된 메시지입니다": CHATCARVE,
    "메시지를 삭제했습니다": CHATCARVE,
    "تم حذف هذه الرسالة": CHATCARVE,
    "esta mensagem foi apagada": HELP + "pt_PT",
    "це повідомлення видалено": HELP + "uk_UA",
    "شما این پیام را حذف کردید": "faq.whatsapp.com/2476316095954737/?locale=fa_IR",
}
MISSED = {
    "missed voice call": CHATCARVE,
    "missed video call": CHATCARVE,
    "llamada perdida": CHATCARVE,
    "videollamada perdida": CHATCARVE,
    "verpasster sprachanruf": CHATCARVE,
    "verpasster videoanruf": CHATCARVE,
    "appel vocal manqué": CHATCARVE,
    "appel vidéo manqué": CHATCARVE,
    "chamada de voz perdida": CHATCARVE,
    "chamada de vídeo perdida": CHATCARVE,
    "chiamata vocale persa": CHATCARVE,
    "videochiamata persa": CHATCARVE,
    "пропущенный аудиозвонок": CHATCARVE,
    "пропущенный видеозвонок": CHATCARVE,
    "cevapsız sesli arama": CHATCARVE,
    "cevapsız görüntülü arama": CHATCARVE,
    "不在着信": CHATCARVE,
    "ビデオ通話の不在着信": CHATCARVE,
    "未接語音通話": CHATCARVE,
    "未接视频通话": CHATCARVE,
    "未接语音通话": CHATCARVE,
    "未接視訊通話": CHATCARVE,
    "부재중 음성통화": CHATCARVE,
    "부재중 영상통화": CHATCARVE,
    "مكالمة صوتية فائتة": CHATCARVE,
    "مكالمة فيديو فائتة": CHATCARVE,
}
LIVE_PLACE = {"live location shared": WHATSR, "live-standort wird geteilt": WHATSR}
EDITED = {
    "this message was edited": EDITS,
    "you edited this message": ANALYZER,
    "diese nachricht wurde bearbeitet": ANALYZER,
    "du hast diese nachricht bearbeitet": ANALYZER,
    "bu mesaj düzenlendi": ANALYZER,
    "bu mesajı düzenlediniz": ANALYZER,
}
PLACE = {"location: https://": WHATSR, "standort: https://": WHATSR, "konum https://": ANALYZER}
POLL = {"poll:\n": POLLS}

_WHOLE = {*DELETED, *MISSED, *LIVE_PLACE, "null"}  # "null" stands where a picture could be seen once
_SENTENCE = re.compile(r"(?![a-zà-ÿа-я])[^\W\d_][^\d_<>@/\\:;=+*#\"'(){}\[\]]{2,40}[ \u3000-\u30ff\u4e00-\u9fff\uac00-\ud7a3][^\d_<>@/\\:;=+*#\"(){}\[\]]{2,40}")
_START = (*PLACE, *POLL)


def is_gone(text: str) -> bool:
    """True when `text` is the app's own: a deleted message, a call, a poll, a place."""
    start = text[:80].casefold()
    return start.startswith(_START) or (len(text) <= 80 and start.strip(". ।。\u200e") in _WHOLE)


def is_edited_mark(words: str) -> bool:
    """True when `words`, which stood in angle brackets at the end of a message, say that it was edited.

    Where the words are not known, their shape decides: a sentence of letters only, as nobody writes one in angle brackets.
    """
    return words.casefold().strip(". \u200e") in EDITED or _SENTENCE.fullmatch(words) is not None
