"""What a person does on the page, and what the tests of it share."""

from __future__ import annotations

import time
from collections.abc import Callable

from browser import Tab

MARKDOWN = """# Title

Some **bold**, *italic* and `code`, see [a page](https://example.org/a?b=1).

1. one
2. two
   - below

> quoted

```python
print("<b>")
```

| name | value |
| :--- | ----: |
| `a`  | **1** |
| b    |

| no | table |
"""


def ask(page: Tab, text: str) -> None:
    page.click("#prompt")
    page.type(text)
    page.press("Enter")


def settled(page: Tab, answers: int, status: str = "done") -> None:
    """Waits until there are so many answers and the last one has ended in this way, and none is running."""
    page.wait(
        f"document.querySelectorAll('.turns .answer').length === {answers}"
        f" && [...document.querySelectorAll('.turns .answer')].at(-1).dataset.status === '{status}'"
        " && !document.querySelector('.turns [data-status=waiting], .turns [data-status=writing]')"
    )


def choose(page: Tab, side: int, model: str) -> None:
    """Picks a model by typing its name's first letters, as a list of options takes them."""
    page.js(f"document.querySelector('#pick-{side}').focus()")
    page.write(model.rpartition("@")[2])


def wait_until(holds: Callable[[], bool], seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.01)


def type_key(page: Tab, key: str) -> None:
    page.wait("document.querySelector('#key-dialog[open]')")
    page.type(key)
    page.press("Enter")


def violations(page: Tab) -> list[str]:
    """What the Content-Security-Policy stopped."""
    issues = [event["issue"] for event in page.of("Audits.issueAdded")]
    return [str(issue["details"]) for issue in issues if issue["code"] == "ContentSecurityPolicyIssue"]
