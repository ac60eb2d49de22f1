"""The visible text of HTML mails: quotes are cut by structure, answers between them stay, hidden text goes."""

from __future__ import annotations

import time

import pytest

from zen_mlx.data.importers.mail_html import html_text
from zen_mlx.data.importers.mail_quotes import own_words


@pytest.mark.parametrize(
    ("page", "own"),
    [
        ("<p>One</p><blockquote>q<blockquote>r</blockquote>s</blockquote><p>Two</p>", "One\n\nTwo"),
        (
            '<div class="moz-cite-prefix">Jan schrieb:</div><blockquote type=cite>q</blockquote>Ja &amp; so',
            "Ja & so",
        ),
        (
            "<div>Yes</div><div>On 1 Jan 2024, at 10:01, Jan &lt;j@x.org&gt; wrote:</div><blockquote>q</blockquote>",
            "Yes",
        ),
        ("Mine<div id='divRplyFwdMsg'><b>Fra:</b> Jan</div><div>theirs</div>", "Mine"),
        ('Mine<div style="border:none;border-top:solid #E1E1E1 1.0pt"><p>X: Jan</p></div><p>theirs</p>', "Mine"),
        ("Mine<div class='gmail_signature'>Kim Doe<br>Acme</div>", "Mine"),
        ("<span style='VISIBILITY: hidden'>no</span><p hidden>no</p><b style='font-size:0px'>no</b>yes", "yes"),
        ('<b style="font-size:0.9em">small</b> <i alt="a hidden gem">gem</i>', "small gem"),
        ("<style>p{}</style><script>if (1<2) no()</script><p>a < b <3", "a < b <3"),
        ("<p style=display:none>no<p>yes", "yes"),
        ("<!-- no --><a title='x > y'>link</a><!-- unclosed", "link"),
        ("<pre>a\n  b</pre>", "a\nb"),
    ],
)
def test_own_words_of_a_page(page: str, own: str) -> None:
    assert own_words(html_text(page)) == own


@pytest.mark.parametrize(
    "unit",
    ["<div>", "<p>", "<a ", "<", "</", "<!--", '<a b="', "<blockquote>", "</div>", "<div><span>", "&", "<script>"],
)
def test_a_hostile_megabyte_takes_seconds(unit: str) -> None:
    begin = time.process_time()
    html_text(unit * (2**20 // len(unit)) + ">")
    assert time.process_time() - begin < 5
