"""Texts with a secret: a generator for each kind."""

from __future__ import annotations

import base64
import json
import random
from collections.abc import Callable

from zen_mlx.data.importers.secrets.password_words import WORDS

from . import SEED, Planted, letters, words

UP = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
LOW = UP.lower()
DIG = "0123456789"
AN = UP + LOW + DIG
LN = LOW + DIG
UN = UP + DIG
HEX = "abcdef" + DIG
URL = UP + LOW + "_-" + DIG

# A form: literal pieces, and (alphabet, count) for what is drawn. From each service's documentation of its tokens.
TOKENS: tuple[tuple[object, ...], ...] = (
    ("AKIA", (UN, 16)),
    ("ASIA", (UN, 16)),
    ("sk-", "proj-", (URL, 74), "T3Blbk", "FJ", (URL, 74)),
    ("sk-", (AN, 48)),
    ("sk-", "ant-api03-", (URL, 93), "AA"),
    ("sk-", "or-v1-", (HEX, 64)),
    ("ghp", "_", (AN, 36)),
    ("gho", "_", (AN, 36)),
    ("ghs", "_", (AN, 36)),
    ("github", "_pat_", (AN, 22), "_", (AN, 59)),
    ("glpat", "-", (AN, 20)),
    ("gldt", "-", (AN, 20)),
    ("glrt", "-", (AN, 20)),
    ("xoxb", "-", (DIG, 12), "-", (DIG, 13), "-", (AN, 24)),
    ("xoxp", "-", (DIG, 12), "-", (DIG, 12), "-", (DIG, 13), "-", (HEX, 32)),
    ("xapp", "-1-A", (UN, 10), "-", (DIG, 13), "-", (HEX, 64)),
    ("sk", "_live_", (AN, 24)),
    ("rk", "_live_", (AN, 24)),
    ("whsec", "_", (AN, 32)),
    ("AIza", (URL, 35)),
    ("ya29", ".", (URL, 120)),
    ("GOCSPX", "-", (URL, 28)),
    ("1//0", (URL, 60)),
    ("hf", "_", (AN, 34)),
    ("gsk", "_", (AN, 52)),
    ("r8", "_", (AN, 37)),
    ("xai", "-", (AN, 80)),
    ("pplx", "-", (AN, 48)),
    ("nvapi", "-", (URL, 64)),
    ("lsv2", "_pt_", (HEX, 32), "_", (HEX, 10)),
    ("npm", "_", (AN, 36)),
    ("pypi", "-AgEIcHlwaS5vcmc", (URL, 120)),
    ("rubygems", "_", (HEX, 48)),
    ("dop", "_v1_", (HEX, 64)),
    ("dckr", "_pat_", (URL, 27)),
    ("SG", ".", (URL, 22), ".", (URL, 43)),
    ("xkeysib", "-", (HEX, 64), "-", (AN, 16)),
    ("key", "-", (HEX, 32)),
    ((HEX, 32), "-us", ("123456789", 1)),
    ("SK", (HEX, 32)),
    ("shpat", "_", (HEX, 32)),
    ("sq0csp", "-", (URL, 43)),
    ("dapi", (HEX, 32)),
    ("dp", ".pt.", (AN, 43)),
    ("ntn", "_", (AN, 46)),
    ("lin", "_api_", (AN, 40)),
    ("figd", "_", (URL, 40)),
    ("pat", (AN, 14), ".", (HEX, 64)),
    ("ATATT3", "xFfGF0", (URL, 180), "=", (UN, 8)),
    ("ATBB", (AN, 32)),
    ("hvs", ".", (URL, 90)),
    ((AN, 14), ".atlasv1.", (URL, 67)),
    ("glsa", "_", (AN, 32), "_", (HEX, 8)),
    ("NRAK", "-", (UN, 27)),
    ("PMAK", "-", (HEX, 24), "-", (HEX, 34)),
    ("pul", "-", (HEX, 40)),
    ("tskey", "-auth-", (AN, 12), "-", (AN, 32)),
    ("sbp", "_", (HEX, 40)),
    ("pscale", "_tkn_", (URL, 43)),
    ("sk", ".eyJ", (AN, 80), ".", (URL, 22)),
    ("LTAI", (AN, 20)),
    ((AN, 3), (DIG, 1), "Q~", (AN, 34)),
    ("AGE", "-SECRET-KEY-1", (UN, 58)),
    ((DIG, 10), ":AA", (URL, 33)),
    ("M", (AN, 25), ".", (AN, 6), ".", (AN, 38)),
    ("ey", "JhbGciOiJIUzI1NiJ9.ey", "J", (AN, 60), ".", (URL, 43)),
    ("https://hooks.", "slack.com/services/T", (UN, 8), "/B", (UN, 8), "/", (AN, 24)),
    ("https://discord", ".com/api/webhooks/", (DIG, 18), "/", (URL, 68)),
)
TOKEN_PLACES = (
    "{}",
    "my token is {} please rotate it",
    "export TOKEN={}",
    '{{"auth": "{}"}}',
    "({})",
    "curl -H 'Authorization: Bearer {}' https://api.example.org/v1/me",
    "look: `{}`",
    "config: {}, then restart",
)

WORD_PARTS = words("sunny otter maple river tango copper violet walnut harbor pepper dragon winter")
NAMES = words(
    """DB_PASSWORD MYSQL_ROOT_PASSWORD POSTGRES_PASSWORD ADMIN_PWD SMTP_PASS REDIS_PASSWORD PGPASSWORD LDAP_BIND_PASSWORD
    DB_PASS ROOT_PW
    RABBITMQ_DEFAULT_PASS MONGO_INITDB_ROOT_PASSWORD KEYSTORE_PASSPHRASE WIFI_PASSWORD FTP_PASSWD APP_DB_PASSWORD_PROD"""
)
CAMEL = words(
    """smtpPassword dbPassword userPwd adminPassword keyStorePassword privateKeyPassphrase proxyPass rootPassword ftpPasswd
    spring.datasource.password mail.smtp.password db_password ldap-password"""
)
KEY_NAMES = words(
    """API_KEY SECRET_KEY CLIENT_SECRET AWS_SECRET_ACCESS_KEY JWT_SECRET AUTH_TOKEN ACCESS_TOKEN ENCRYPTION_KEY GITHUB_TOKEN"""
)
KEY_CAMEL = words("apiKey clientSecret accessToken secretKey authToken x-api-key refreshToken webhookSecret signingKey")


def drawn(rng: random.Random, form: tuple[object, ...]) -> str:
    return "".join(piece if isinstance(piece, str) else letters(rng, *piece) for piece in form)  # type: ignore[misc]


def password(rng: random.Random) -> str:
    """Words, words with digits, letters with marks, or what a password manager makes."""
    one, two = rng.sample(WORD_PARTS, 2)
    return rng.choice(
        (
            one + two,
            rng.choice((one + "pass", "secret" + one, "mysecretpass", "top" + "secret" + two)),
            one.title() + rng.choice("!#$%&*@+") + str(rng.randrange(10, 9999)),
            two + str(rng.randrange(1, 2030)),
            letters(rng, AN, rng.randrange(8, 24)),
            letters(rng, UP + LOW + "!#%*+-_=?@^" + DIG, rng.randrange(10, 20)),
            one.title() + "-" + two.title() + "-" + str(rng.randrange(10, 99)),
        )
    )


def mixed(rng: random.Random) -> str:
    """A password that is no word."""
    return rng.choice(WORD_PARTS).title() + rng.choice(("", "!", "_", "#")) + str(rng.randrange(10, 9999))


def machine_key(rng: random.Random) -> str:
    return letters(rng, rng.choice((AN, HEX, LN, "+/" + AN)), rng.choice((16, 20, 32, 40, 64)))


def service_tokens(rng: random.Random, index: int) -> tuple[str, str]:
    made = drawn(rng, TOKENS[index % len(TOKENS)])
    return rng.choice(TOKEN_PLACES).format(made), made


def settings(rng: random.Random, index: int) -> tuple[str, str]:
    key = index % 3 == 2
    name = rng.choice(KEY_NAMES if key else NAMES)
    value = (
        machine_key(rng)
        if key
        else rng.choice((password(rng), password(rng), letters(rng, LN, 2), rng.choice(WORD_PARTS)))
    )
    place = rng.choice(
        (
            "{}={}",
            "export {}={}",
            '{}="{}"',
            "{}: {}",
            "{}: '{}'",
            "      - {}={}",
            "set {}={}",
            "ENV {} = {}",
            "$env:{} = '{}'",
            "docker run -e {}={} image",
            "heroku config:set {}={}",
            "{}={} ./start.sh",
            "LANG=C\n{}={}\nPORT=8080",
        )
    )
    return place.format(name, value), value


def code(rng: random.Random, index: int) -> tuple[str, str]:
    key = index % 3 == 2
    name = rng.choice(KEY_CAMEL if key else CAMEL)
    value = machine_key(rng) if key else password(rng)
    inner = json.dumps({"user": "kim", name: value})
    place = rng.choice(
        (
            f'"{name}": "{value}",',
            f"{name}: {value}",
            f"  {name}: '{value}'  # prod",
            f"{name} = {value}",
            f'{name} = "{value}"',
            f'const {name.replace("-", "_")} = "{value}";',
            f"<{name}>{value}</{name}>",
            f'<add key="{name}" value="{value}"/>',
            f'- name: {name}\n  value: "{value}"',
            f'{{"name": "{name}", "value": "{value}"}}',
            inner,
            json.dumps({"body": inner}),
            json.dumps({"outer": json.dumps({"body": inner})}),
            f'variable "{name}" {{\n  default = "x"\n}}\n{name} = "{value}"',
            f"Server=db1;User Id=sa;{'Password' if not key else 'ApiKey'}={value};Encrypt=true",
            f"connect(host='db', {name.split('.')[-1].replace('-', '_')}='{value}')",
            f"https://example.org/login?user=kim&{name.split('.')[-1]}={value.replace('#', '-').replace('&', '-')}&next=1",
        )
    )
    return place, value if value in place else value.replace("#", "-").replace("&", "-")


COMMANDS = (
    "mysql -u root -p{} shop",
    "mysqldump --user=root --password={} shop > dump.sql",
    "mysqladmin -u root -p'{}' status",
    "PGPASSWORD={} psql -h db -U app",
    "curl -u kim:{} https://example.org/api",
    'curl --user "kim:{}" https://example.org/api',
    "curl -s -X POST -u kim:{} -d a=b https://example.org",
    "wget --user=kim --password={} https://example.org/f.zip",
    "wget --http-user=kim --http-password={} https://example.org",
    "sshpass -p {} ssh kim@example.org",
    "sshpass -p '{}' scp a b:",
    "redis-cli -h cache -a {} ping",
    "docker login -u kim -p {} registry.example.org",
    "docker login --username kim --password {} registry.example.org",
    "mongosh -u admin -p {} --authenticationDatabase admin",
    "smbclient //nas/share -U kim%{}",
    "ldapsearch -x -D cn=admin -w {} -b dc=x",
    "sqlcmd -S db -U sa -P {} -Q 'select 1'",
    "net use Z: \\\\nas\\share {} /user:kim",
    "openssl rsa -in key.pem -passin pass:{}",
    "unzip -P {} secret.zip",
    "7z x -p{} archive.7z",
    "htpasswd -bc .htpasswd kim {}",
    "echo {} | sudo -S reboot",
    "echo kim:{} | chpasswd",
    "CREATE USER app IDENTIFIED BY '{}';",
    "ALTER USER app WITH PASSWORD '{}';",
    "mysql --host db --password '{}'",
    "keytool -list -storepass {} -keystore k.jks",
    "ansible-playbook site.yml -e ansible_become_pass={}",
    "xfreerdp /u:kim /p:{} /v:host",
    "az login -u kim -p {}",
    "rclone config create x webdav pass={}",
    "$p = ConvertTo-SecureString '{}' -AsPlainText -Force",
    "ipmitool -I lanplus -H bmc -U admin -P {} power status",
    "./deploy --api-token {} --env prod",
)
ADDRESSES = (
    "postgres://app:{}@db.example.org:5432/shop",
    "postgresql+psycopg://app:{}@localhost/shop",
    "mysql://root:{}@10.0.0.5/shop",
    "mongodb+srv://kim:{}@cluster0.example.net/?w=majority",
    "redis://:{}@cache:6379/0",
    "amqp://guest:{}@mq//",
    "https://kim:{}@git.example.org/team/repo.git",
    "ftp://kim:{}@ftp.example.org/pub",
    "smtp://mailer:{}@smtp.example.org:587",
    "git clone https://kim:{}@example.org/x.git now",
    "DATABASE_URL=postgres://app:{}@db/shop",
    '"url": "amqps://kim:{}@mq.example.org/v"',
)
FILES = (
    "machine example.org login kim password {}",
    "machine example.org\n  login kim\n  password {}\n",
    "db.example.org:5432:shop:app:{}",
    "localhost:*:*:postgres:{}",
    "[client]\nuser=root\npassword={}\n",
    "[pypi]\nusername = kim\npassword = {}\n",
    "//registry.example.org/:_authToken={k}",
    "//registry.example.org/:_password={}",
    'network={{\n  ssid="home"\n  psk="{}"\n}}',
    "WIFI:S:home;T:WPA;P:{};;",
    "otpauth://totp/Shop:kim?secret={b}&issuer=Shop",
    '{{"auths": {{"https://index.docker.io/v1/": {{"auth": "{a}"}}}}}}',
    "[default]\naws_access_key_id = X\naws_secret_access_key = {k}\n",
    "DefaultEndpointsProtocol=https;AccountName=shop;AccountKey={k}==;EndpointSuffix=core.windows.net",
    "Endpoint=sb://x.servicebus.windows.net/;SharedAccessKeyName=Root;SharedAccessKey={k}=",
    "kim:$6${a8}${h}:19000:0:99999:7:::",
    "requirepass {}",
    "admin_password: !!str {}",
)
TOLD = (
    "{w}: {p}",
    "{W}: {p}",
    "{w} = {p}",
    "{W}: {p}, ok?",
    "wifi {w}: {p}",
    "{w}: {p}\nbye",
    'the {w} is "{p}"',
    "user: kim {w}: {p}",
    "{w} wifi: {m}",
    "**{W}:** {p}",
    "{w} ({p2}): {m}",
    "{w} : {p}",
    "{w}：{m}",
)
IN_ENGLISH = (
    "the password is {m}",
    "My pw is {m} btw",
    "pw: {m}",
    "pass: {m}",
    "password for the router is {m}",
    "login kim / password {m}",
    "PIN: {d}",
    "my PIN is {d}",
    "passcode {d6}",
    "passphrase: {w4}",
    "seed phrase: {w12}",
    "app password: {g}",
    "login: kim pass: {p}",
    "user/pass: kim/{p}",
    "credentials: kim:{m}",
    "the passphrase is '{w4}'",
    "API key: {k}",
    "the secret key is {k}",
    "access token {k}",
    "Das Passwort lautet {m}",
    "mi contraseña es {m}",
    "le mot de passe est {m}",
    "mijn wachtwoord is {m}",
    "hasło to {m}",
    "пароль {m}",
    "密码是{m}",
    "パスワードは{m}です",
    "비밀번호는 {m}",
    "пароль от вайфая: {m}",
    "parola è {m}",
    "a senha do wifi é {m}",
)


def commands(rng: random.Random, index: int) -> tuple[str, str]:
    value = machine_key(rng) if "token" in COMMANDS[index % len(COMMANDS)] else password(rng)
    return COMMANDS[index % len(COMMANDS)].format(value), value


def addresses(rng: random.Random, index: int) -> tuple[str, str]:
    value = password(rng).replace("#", "%23").replace("?", "%3F").replace("@", "%40")
    return ADDRESSES[index % len(ADDRESSES)].format(value), value


def files(rng: random.Random, index: int) -> tuple[str, str]:
    form = FILES[index % len(FILES)]
    drawn_as = {
        "{k}": letters(rng, AN, 40),
        "{b}": "".join(rng.choices(UP + "234567", k=32)),
        "{a}": base64.b64encode(f"kim:{mixed(rng)}".encode()).decode(),
        "{h}": letters(rng, "./" + AN, 86),
    }
    salt = letters(rng, AN, 8)
    for mark, value in drawn_as.items():
        if mark in form:
            return form.format("", k=value, b=value, a=value, h=value, a8=salt), value
    value = password(rng)
    return form.format(value), value


def told(rng: random.Random, index: int) -> tuple[str, str]:
    known = [word for each in WORDS.values() for word in each]
    word = known[index % len(known)]
    form = rng.choice(TOLD)
    value = mixed(rng) if "{m}" in form else password(rng)
    return form.format(w=word, W=word.capitalize(), p=value, m=value, p2="wifi"), value


def english(rng: random.Random, index: int) -> tuple[str, str]:
    form = IN_ENGLISH[index % len(IN_ENGLISH)]
    values = {
        "m": mixed(rng),
        "p": password(rng),
        "d": letters(rng, "13579", 4),
        "d6": letters(rng, "1357", 6),
        "k": machine_key(rng),
        "w4": " ".join(rng.sample(WORD_PARTS, 4)),
        "w12": " ".join(rng.sample(WORD_PARTS, 12)),
        "g": " ".join(letters(rng, LOW, 4) for _ in range(4)),
    }
    used = next(name for name in values if f"{{{name}}}" in form)
    return form.format(**values), values[used]


KINDS: dict[str, tuple[Callable[[random.Random, int], tuple[str, str]], int]] = {
    "tokens of services": (service_tokens, 2 * len(TOKENS)),
    "settings (`DB_PASSWORD=`)": (settings, 120),
    "code and configuration": (code, 160),
    "command lines": (commands, 2 * len(COMMANDS)),
    "addresses with a login": (addresses, 4 * len(ADDRESSES)),
    "files of tools": (files, 4 * len(FILES)),
    "word for password in the table's languages": (told, 160),
    "told in words": (english, 3 * len(IN_ENGLISH)),
}


def planted(seed: int = SEED) -> list[Planted]:
    """Every kind's texts, drawn with `seed`."""
    rng = random.Random(seed)
    return [Planted(kind, *make(rng, index)) for kind, (make, count) in KINDS.items() for index in range(count)]
