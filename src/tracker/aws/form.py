"""The body of a request to SNS: a URL-encoded form, which is written here and not by botocore.

botocore gives each value to `urllib.parse.quote_plus`. For a text with anything to escape that takes 25 nanoseconds a
character, and the text of a span has tens of thousands. `escape` looks only at what has to be escaped: nothing but `=`
in the base64url of a compressed span.
"""

import string
from typing import Any

_UNRESERVED = f"{string.ascii_letters}{string.digits}-._~".encode()  # RFC 3986, 2.3: a form never escapes these


def write_form(params: dict[str, Any], **_: Any) -> None:
    """Replace the form of a request by its bytes. botocore calls this before it signs the request (`before-call`)."""
    form = params["body"]
    if isinstance(form, dict):  # no other kind of body is made for the query protocol
        params["body"] = b"&".join(b"%b=%b" % (escape(str(name)), escape(str(form[name]))) for name in form)


def escape(text: str) -> bytes:
    """The UTF-8 bytes of `text`, with each byte that is not unreserved written as `%XX`. Raises UnicodeEncodeError."""
    data = text.encode()
    # `%` is replaced first: the text that replaces the other bytes begins with it.
    for byte in sorted({*data.translate(None, _UNRESERVED)}, key=lambda byte: byte != ord("%")):
        data = data.replace(bytes((byte,)), b"%%%02X" % byte)
    return data
