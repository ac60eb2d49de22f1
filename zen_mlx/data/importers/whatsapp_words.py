"""What WhatsApp itself writes into a chat under a person's name, and where each wording can be read in public.

A wording stands here only below its source. What the app marks, with a mark of direction or in angle brackets alone in a
message, and what has a shape that nobody writes, needs no words. docs/data.md lists what is missing.
"""

from __future__ import annotations

import re

CHATCARVE = "github.com/JaydenCJ/chatcarve src/chatcarve/system.py"
WHATS_JSON = "github.com/starkdmi/whats_json lib/src/patterns.dart"
ANALYZER = "github.com/koftezz/whatsapp-chat-analyzer src/whatsapp_analyzer/preprocessors/language_config.py"
EDITS = "github.com/koftezz/whatsapp-chat-analyzer/issues/18"
WHATSR = "github.com/gesiscss/WhatsR inst/Languages.csv"
HELP = "faq.whatsapp.com/1370476507114859/?locale=pt_PT and ?locale=uk_UA"
POLLS = "github.com/Pustur/whatsapp-chat-parser-website/issues/43"

DELETED = {
    CHATCARVE: "this message was deleted|you deleted this message|se eliminó este mensaje|eliminaste este mensaje"
    "|diese nachricht wurde gelöscht|du hast diese nachricht gelöscht|ce message a été supprimé"
    "|vous avez supprimé ce message|essa mensagem foi apagada|você apagou esta mensagem|apagou esta mensagem"
    "|questo messaggio è stato eliminato|hai eliminato questo messaggio|dit bericht is verwijderd"
    "|u hebt dit bericht verwijderd|это сообщение было удалено|вы удалили это сообщение|bu mesaj silindi"
    "|bu mesajı sildiniz|このメッセージは削除されました|メッセージを削除しました|此訊息已刪除|你已刪除這則訊息|此消息已删除"
    "|삭제된 메시지입니다|메시지를 삭제했습니다|تم حذف هذه الرسالة",
    WHATSR: "message deleted",
    HELP: "esta mensagem foi apagada|це повідомлення видалено",
    WHATS_JSON: "данное сообщение удалено|вы удалили данное сообщение|mensagem apagada|este mensaje fue eliminado"
    "|מחקת את ההודעה הזו|הודעה זו נמחקה|מחקת הודעה זו|διαγράψατε αυτό το μήνυμα|διαγράψατε το μήνυμα"
    "|αυτό το μήνυμα διαγράφηκε|ви видалили це повідомлення|це повідомлення було видалено|您已刪除此訊息"
    "|您已删除这条消息|信息已删除|bạn đã xóa tin nhắn này|bạn đã xoá tin nhắn này|tin nhắn này đã bị xoá"
    "|آپ نے یہ میسج حذف کر دیا ہے|یہ پیغام حذف کیا گیا|คุณได้ลบข้อความนี้|คุณลบข้อความนี้|ข้อความนี้ได้ถูกลบ"
    "|du har tagit bort meddelandet|du raderade det här meddelandet|detta meddelande raderades"
    "|túto správu ste odstránili|táto správa bola odstránená|usunąłeś(-ęłaś) tę wiadomość"
    "|ta wiadomość została usunięta|ați șters acest mesaj|du slettet denne meldingen|denne meldingen ble slettet"
    "|anda telah memadamkan mesej ini|mesej ini telah dipadam|तुम्ही हा मेसेज हटवला|삭제한 메시지입니다"
    "|이 메시지는 삭제되었습니다|이 메시지를 삭제했습니다|このメッセージを削除しました|ezt az üzenetet törölted"
    "|törölted ezt az üzenetet|ez az üzenet törlésre került|anda menghapus pesan ini|anda telah menghapus pesan ini"
    "|pesan ini telah dihapus|izbrisali ste ovu poruku|ova poruka je izbrisana|आपने यह मैसेज डिलीट किया"
    "|आपने यह संदेश मिटाया|यह संदेश मिटाया गया|તમે આ મેસેજ ડિલીટ કર્યો|poistit tämän viestin|tämä viesti poistettiin"
    "|شما این پیام را حذف کردید|این پیام حذف شد|du har slettet denne besked|denne besked blev slettet"
    "|tuto zprávu jste smazal/a|tato zpráva byla odstraněna|has suprimit aquest missatge|has esborrat aquest missatge"
    "|съобщението беше изтрито|изтрихте това съобщение|এই বার্তাটি মুছে ফেলা হয়েছে|আপনি এই মেসেজটি বাদ দিয়েছেন"
    "|see sõnum on kustutatud|kustutasid selle sõnumi|šī ziņa tika izdzēsta|ši žinutė buvo ištrinta"
    "|to sporočilo je bilo izbrisano|لقد حذَفت هذه الرسالة|أنت حذفت هذه الرسالة",
}
MISSED = {
    CHATCARVE: "missed voice call|missed video call|llamada perdida|videollamada perdida|verpasster sprachanruf"
    "|verpasster videoanruf|appel vocal manqué|appel vidéo manqué|chamada de voz perdida|chamada de vídeo perdida"
    "|chiamata vocale persa|videochiamata persa|пропущенный аудиозвонок|пропущенный видеозвонок|cevapsız sesli arama"
    "|cevapsız görüntülü arama|不在着信|ビデオ通話の不在着信|未接語音通話|未接视频通话|未接语音通话|未接視訊通話"
    "|부재중 음성통화|부재중 영상통화|مكالمة صوتية فائتة|مكالمة فيديو فائتة",
    WHATS_JSON: "שיחה קולית שלא נענתה|שיחת וידאו שלא נענתה|αναπάντητη φωνητική κλήση|αναπάντητη βιντεοκλήση"
    "|пропущений аудіодзвінок|пропущений відеодзвінок|ভয়েস কল মিস করেছেন|ভিডিও কল মিস করেছেন|cuộc gọi nhỡ"
    "|cuộc gọi nhỡ video|مسڈ وائس کال|مسڈ ویڈیو کال|สายที่ไม่ได้รับ|วิดีโอคอลที่ไม่ได้รับ|missat röstsamtal"
    "|missat videosamtal|zmeškaný hlasový hovor|zmeškaný videohovor|nieodebrane połączenie|nieodebrane poł. głosowe"
    "|nieodebrane poł. wideo|apel vocal nepreluat|apel video nepreluat|gemist spraakgesprek|gemist videogesprek"
    "|gemiste spraakoproep|gemiste video-oproep|tapt taleanrop|tapt videoanrop|panggilan suara terlepas"
    "|panggilan video terlepas|मिस्ड वॉइस कॉल|मिस्ड वीडियो कॉल|부재중 전화|音声通話不在着信|ビデオ通話不在着信"
    "|nem fogadott hanghívás|nem fogadott videohívás|panggilan suara tak terjawab|panggilan video tak terjawab"
    "|propušteni glasovni poziv|propušteni videopoziv|vastaamaton äänipuhelu|vastaamaton videopuhelu"
    "|تماس صوتی پاسخ داده نشده|تماس تصویری پاسخ داده نشده|ubesvaret taleopkald|ubesvaret videoopkald"
    "|trucada de veu perduda|videotrucada perduda|llamada de voz perdida|пропуснато гласово обаждане"
    "|пропуснато видео обаждане",
}
LIVE_PLACE = {WHATSR: "live location shared|live-standort wird geteilt"}
EDITED = {
    EDITS: "this message was edited",
    ANALYZER: "you edited this message|diese nachricht wurde bearbeitet|du hast diese nachricht bearbeitet"
    "|bu mesaj düzenlendi|bu mesajı düzenlediniz",
}

_SHORT = 80
_WHOLE = {words for table in (DELETED, MISSED, LIVE_PLACE) for line in table.values() for words in line.split("|")}
_WHOLE.add("null")  # stands where a picture could be seen once
_MARKS = {words for line in EDITED.values() for words in line.split("|")}
_PLACE = re.compile(r"[^\n:]{2,30}:?\s?https://maps\.google\.com/\?q=-?[\d.]{1,20},-?[\d.]{1,20}")  # source: WHATS_JSON
_POLL = re.compile(
    r"(?P<word>[^\W\d_]{3,20})\s?:(?:\n.{1,300}\n[^\W\d_]{3,20}\s?: .{1,300}\(\d{1,6} [^()\n]{1,20}\)|\Z)"
)
_SENTENCE = re.compile(  # letters only, of two words, or of a script that has no spaces
    r"[^\W\d_][^\d_<>@/\\:;=+*#(){}\[\]]{2,40}[ \u3000-\u30ff\u4e00-\u9fff\uac00-\ud7a3][^\d_<>@/\\:;=+*#(){}\[\]]{2,40}"
)


def is_gone(text: str) -> bool:
    """True when `text` is the app's own: a deleted message, a call, a poll, a place."""
    poll = _POLL.match(text)
    if (poll and poll["word"].isupper()) or _PLACE.fullmatch(text):
        return True
    return len(text) <= _SHORT and text.casefold().strip(". ।。۔\u200e\u200f") in _WHOLE


def is_edited_mark(words: str) -> bool:
    """True when `words`, which stood in angle brackets at the end of a message, say that it was edited.

    Where the words are not known their shape decides: a sentence with a capital letter, or of a script without any.
    """
    known = words.casefold().strip(". \u200e") in _MARKS
    return known or (not words[0].islower() and _SENTENCE.fullmatch(words) is not None)
