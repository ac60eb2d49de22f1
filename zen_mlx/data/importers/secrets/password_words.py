"""The word for password, by language.

Where nothing else is said, a language's first word is the translation of "Password" in Django,
github.com/django/django/blob/stable/5.2.x/django/contrib/auth/locale/LANGUAGE/LC_MESSAGES/django.po. The other sources:
[1] another message of that file, [2] django-allauth, github.com/pennersr/django-allauth, allauth/locale, [3] Microsoft,
learn.microsoft.com/de-de/windows/win32/api/lmaccess/nf-lmaccess-netuserchangepassword, [4] django/contrib/admin/locale,
[5] github.com/Samsung/CredSweeper, tests/samples/doc_passwd_pair.
"""

from __future__ import annotations

WORDS: dict[str, tuple[str, ...]] = {
    "af": ("wagwoord",),
    "ar": ("كلمة المرور", "كلمة السر"),  # [1]
    "bg": ("парола",),
    "bn": ("পাসওয়ার্ড",),
    "ca": ("contrasenya",),
    "cs": ("heslo",),
    "cy": ("cyfrinair",),
    "da": ("adgangskode", "kodeord"),  # [1]
    "de": ("passwort", "kennwort"),  # [3]
    "el": ("συνθηματικό", "κωδικός"),  # [1]
    "en": ("password",),
    "es": ("contraseña", "clave"),  # [1], es_VE
    "et": ("salasõna", "parool"),  # [1]
    "eu": ("pasahitza",),
    "fa": ("گذرواژه", "رمز عبور"),  # [1]
    "fi": ("salasana",),
    "fr": ("mot de passe",),
    "gl": ("contrasinal",),
    "he": ("סיסמה", "סיסמא"),  # [2]
    "hi": ("कूटशब्द", "पासवर्ड"),  # [4]
    "hr": ("lozinka",),
    "hu": ("jelszó",),
    "id": ("sandi", "kata sandi"),  # [1]
    "is": ("lykilorð",),
    "it": ("password",),
    "ja": ("パスワード",),
    "ka": ("პაროლი",),
    "ko": ("비밀번호", "패스워드", "암호", "비번"),  # [5]
    "lt": ("slaptažodis",),
    "lv": ("parole",),
    "ms": ("kata laluan",),
    "nb": ("passord",),
    "nl": ("wachtwoord",),
    "pl": ("hasło",),
    "pt": ("palavra-passe", "senha"),  # pt_BR
    "ro": ("parolă",),
    "ru": ("пароль",),
    "sk": ("heslo",),
    "sl": ("geslo",),
    "sq": ("fjalëkalim",),
    "sr": ("лозинка", "lozinka"),  # sr_Latn
    "sv": ("lösenord",),
    "sw": ("nenosiri",),
    "th": ("รหัสผ่าน",),
    "tr": ("parola", "şifre"),  # [2]
    "uk": ("пароль",),
    "vi": ("mật khẩu",),
    "zh": ("密码", "密碼"),  # zh_Hans, zh_Hant
}
"""ISO 639-1 code -> the words, in lower case."""
