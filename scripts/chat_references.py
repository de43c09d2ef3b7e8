#!/usr/bin/env python3
"""Writes how transformers renders chats, for crates/infer/tests/chat_templates.rs.

    pip install transformers jinja2
    scripts/chat_references.py crates/infer/tests/data/chat_templates.json
    scripts/chat_references.py OTHER.json FOLDER_OF_JINJA_FILES

The templates are those in crates/infer/tests/data/chat, or in the folder that is given; a file may
hold none of the chats' text. Each chat is rendered with and without the prompt for an answer; where
transformers refuses, the error is stored in place of a text. The clock stands still.
"""

import datetime
import json
import pathlib
import sys

import transformers
from transformers.utils import chat_template_utils

TOKENS = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "</s>"}
CHATS = {
    "one": [{"role": "user", "content": "What is the square root of 24?"}],
    "system": [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "  Bonjour, ça va ?\nTout est “bien” 🙂 \n"},
    ],
    "three": [
        {"role": "user", "content": "Hello, how are you?"},
        {"role": "assistant", "content": "I'm doing great. How can I help you today?"},
        {"role": "user", "content": "I'd like to show off how chat templating works!"},
    ],
    "five": [
        {"role": "system", "content": ""},
        {"role": "user", "content": "1"},
        {"role": "assistant", "content": "<think>\nhm\n</think>\n\n2"},
        {"role": "user", "content": "3 & \"4\" <5>"},
        {"role": "assistant", "content": "6\n"},
        {"role": "user", "content": "7"},
    ],
    "wrong": [{"role": "assistant", "content": "me first"}, {"role": "assistant", "content": "again"}],
}


class Clock(datetime.datetime):
    """A day in the past, so that templates that show the date say the same each day."""

    @classmethod
    def now(cls, tz=None):
        return cls(2024, 7, 26, 9, 5, 3, tzinfo=tz)


def main():
    out = pathlib.Path(sys.argv[1])
    here = pathlib.Path(__file__).parent.parent / "crates/infer/tests/data/chat"
    folder = pathlib.Path(sys.argv[2]) if len(sys.argv) > 2 else here
    chat_template_utils.datetime = Clock
    templates = []
    for path in sorted(folder.glob("*.jinja")):
        source = path.read_text(encoding="utf-8")
        rendered = []
        for name, chat in CHATS.items():
            for prompt in (False, True):
                case = {"chat": name, "add_generation_prompt": prompt}
                try:
                    texts, _ = chat_template_utils.render_jinja_template(
                        [chat], chat_template=source, add_generation_prompt=prompt, **TOKENS
                    )
                    case["text"] = texts[0]
                except Exception as error:  # whatever a template raises is what is stored
                    case["error"] = str(error)
                rendered.append(case)
        templates.append({"name": path.name, "source": source, "rendered": rendered})
    versions = {"transformers": transformers.__version__}
    result = {"versions": versions, "tokens": TOKENS, "chats": CHATS, "templates": templates}
    out.write_text(json.dumps(result, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
