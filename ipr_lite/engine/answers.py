"""What servers that speak OpenAI's chat completions say, read with lenience: each spells it a little differently."""

from __future__ import annotations

import json
import os
import re

TOO_LONG = re.compile(
    r"context[ _-]?(length|size|window)|max(imum)?[ _](allowed )?(model|seq|sequence|token|input)[ _]len"
    r"|(prompt|input|history)( is)? too (long|large)|inputs` (tokens|must have less)",
    re.IGNORECASE,
)
"""What servers call a history that does not fit."""
REMEDIES = {
    0: "start the server there, or correct --url",
    401: "set OPENAI_API_KEY to the server's key",
    403: "set OPENAI_API_KEY to the server's key",
    404: "give the --url up to its /v1, of a server that takes chat completions",
}


class ServerError(RuntimeError):
    """The server cannot be reached, lacks the model or refuses a request; the message ends with the remedy."""


def api_key() -> str:
    """OPENAI_API_KEY, or "none". Raises ServerError where no header can hold it: the client's own error would show it."""
    key = os.environ.get("OPENAI_API_KEY", "").strip()
    if not re.fullmatch("[!-~]*", key):
        raise ServerError("OPENAI_API_KEY holds a blank, a control or a non-ASCII character; set it to the key alone")
    return key or "none"


def read_answer(told: str) -> tuple[str, str | None, int, int] | None:
    """The message of a chat completion, why it ended, and the tokens read and written, 0 where they are not told.

    Parts of a text are joined, those of a thought passed over; no message is an empty one. None: this is no completion.
    """
    answer = json_object(told)
    if "choices" not in answer:
        return None
    choices = answer["choices"]
    choice = _dict(choices[0] if isinstance(choices, list) and choices else None)
    content = _dict(choice.get("message")).get("content")
    parts = content if isinstance(content, list) else [content]
    texts = [part if isinstance(part, str) else _dict(part).get("text") for part in parts]
    # Half a surrogate pair, which JSON can spell, is in no UTF-8 file.
    text = "".join(text for text in texts if isinstance(text, str)).encode("utf-8", "replace").decode("utf-8")
    usage = _dict(answer.get("usage"))
    read, written = (n if isinstance(n, int) else 0 for n in map(usage.get, ("prompt_tokens", "completion_tokens")))
    return text, choice.get("finish_reason"), read, written


def status_of(told: str) -> int:
    """200, or what an error in its guise means: its own code; else 400 where it calls the request invalid, and 500."""
    answer = json_object(told)
    error = answer.get("error") or (answer if answer.get("object") == "error" else None)
    if not error:
        return 200
    code = str(_dict(error).get("code"))
    if re.fullmatch("[45][0-9]{2}", code):
        return int(code)
    return 400 if too_long(400, told) or "invalid" in str(_dict(error).get("type")).lower() else 500


def too_long(status: int, told: str) -> bool:
    """Whether the server says that a history does not fit its context."""
    return status in (400, 413, 422, 500) and bool(TOO_LONG.search(told))


def busy(status: int) -> bool:
    """Whether to ask again may help."""
    return status in (0, 408, 409, 425, 429) or status >= 500


def remedy_of(status: int, told: str) -> str:
    """What helps against an answer with this status, which was of no use."""
    if status == 200:
        if read_answer(told):
            return "it writes nothing: its log may say why; a policy that ends its turns at once needs --backend local"
        return "that is not OpenAI's API: give the --url of a server that speaks it, up to its /v1"
    if busy(status) and status:
        return "see its log, start it anew, and give the same command again: finished episodes are kept"
    return REMEDIES.get(status, "its log says more")


def json_object(told: str) -> dict:
    """What a text says in JSON; {} where it is not an object."""
    try:
        return _dict(json.loads(told))
    except (ValueError, RecursionError):
        return {}


def _dict(value) -> dict:
    return value if isinstance(value, dict) else {}
