#!/usr/bin/env python3
"""Checks that a tokenizer goes through GGUF and back without changing an id.

    python3 scripts/check_tokenizers.py MISTRAL SMOLLM2 --text wikipedia.txt jargon.txt
    python3 scripts/check_tokenizers.py --gguf SmolLM2-135M-Instruct.Q4_1.gguf --reference SMOLLM2
    python3 scripts/check_tokenizers.py --names LLAMA3

MISTRAL and SMOLLM2 are folders with a tokenizer.json. Each is written as a GGUF file and that as a
folder again; a GGUF file is written as a folder. What must hold, or the exit code is 1, on 1,000
documents or more:

    - AutoTokenizer gives the same ids for the folder that came back as for the first, and the same
      text for the ids
    - llama.cpp gives the same ids for the GGUF file, where llama_cpp can be imported
    - with --gguf and --reference, the folder gives the ids of the reference folder, which other code
      has made

With --names the vocabulary of one folder (byte-level; better one with numbers of several digits) is
written, by the gguf package, under each name of a pre-tokenizer in the table of the crate, and
tokenizers must give llama.cpp's ids for the folder made of it. Where the table says that llama.cpp
differs from the published regex, the number of differing documents is shown only.

Half of the documents are cut from the files of --text; the others are put together, with a fixed seed,
from Korean, Japanese, Chinese, Arabic, Hindi, Thai, emoji (joined, with skin tones, flags), code, runs
of spaces, tabs and line ends, combining marks, NUL and odd white space. Without --text all are.

llama.cpp does not compose characters (NFC) and knows categories of characters from tables of its own,
so --tolerate N lets it differ on N documents; the first differences are shown all the same. --nfc
composes the documents first.

Needs transformers and tokenizers, llama_cpp and gguf if they are there (made with 5.23, 0.23.3, 0.3.36
and 0.19.0), and the example of the crate: cargo build --release -p checkpoint --example translate_tokenizer
Exit codes: 0 equal, 1 not, 2 could not check.
"""

import argparse
import json
import os
import random
import re
import subprocess
import sys
import tempfile
import unicodedata
from pathlib import Path

import transformers
from tokenizers import Tokenizer
from transformers import AutoTokenizer, PreTrainedTokenizerFast

try:
    import llama_cpp
except ImportError:
    llama_cpp = None

NUM_DOCUMENTS = 1000
SHOWN = 3

SAMPLES = [
    "The quick brown fox jumps over the lazy dog. ",
    "I've been told he's there, 'RE you sure? We'Ve a'lL. It's 12 o'clock; they'd know.",
    "안녕하세요, 세계! 오늘은 날씨가 좋습니다. ",
    "한국어 토크나이저는 띄어쓰기를 잘 다뤄야 합니다.\n",
    "ㄱㄴㄷ ㅏㅑㅓ 뷁 쀍 ",
    "こんにちは世界。今日はいい天気ですね。",
    "吾輩は猫である。名前はまだ無い。\n",
    "カタカナとひらがな、ｶﾅ、ＡＢＣ１２３　全角スペース ",
    "我想在apple工作1314151天～ 繁體中文與简体中文。",
    "مرحبا بالعالم، كيف حالك؟ ",
    "שלום עולם ",
    "नमस्ते दुनिया, क्या हाल है? ",
    "สวัสดีชาวโลก ",
    "Привет, мир! нещо на Български ",
    "Γειά σου Κόσμε ",
    "កាន់តែពិសេសអាច",
    "👨‍👩‍👧‍👦 👩🏽‍🚀 🏳️‍🌈 🇰🇷🇯🇵🇺🇸 1️⃣ ❤️‍🔥",
    "🚀 (normal) 😶‍🌫️ (multiple emojis concatenated) ✅ 🦙🦙",
    "fn main() {\n    println!(\"{}\", x << 2 & 0xff);\n}\n",
    "def f(x):\n\treturn [i**2 for i in range(x) if i % 2 == 0]\n\n\n",
    "<html><body class=\"a\">&nbsp;</body></html>\r\n",
    "SELECT * FROM t WHERE a >= 10 AND b != 'x'; -- comment\n",
    "#include <stdio.h>\nint main(void) { return 0; }\n",
    "3 33 333 3333 33333 333333 3333333 3.14159 1,000,000 ½ ² ³ Ⅷ ٣٤٥ १२३ 1e-05 0x1F",
    " ", "  ", "   ", "        ", "\t", "\t\t", "\n", "\n\n", "\n\n\n", "\r\n", " \n", "\n ", " \t ",
    "\u00a0", "\u2003", "\u3000", "\u200b", "\u200d", "\ufeff", "\u0085", "\x0b", "\x00", "\x7f",
    "e\u0301a\u0308n\u0303 ", "é ä ñ ö ü ß ò ", "Z͑ͫ̓ͪ̂ͫ̽͏̴̙̤̞͉͚̯̞̠͍A̴̵̜̰͔ͫ͗͢", "ạ̈̇ ",
    "ﬁ ﬂ Å Ω ℌ ™ ", "𝕳𝖊𝖑𝖑𝖔 𐍈 𒀀 ", "!!!!!!??????...... ------======= ``````\"\"\"\"", "▁ ▁▁ _ __ ",
    "(a)[b]{c}<d>|e|\\f/g*h+i=j~k^l`m@n#o$p%q&r ", "https://example.com/a?b=c&d=e#f ",
    "<0x0A> <|x|> [INST] ", "CamelCaseAndHTTPServer snake_case_name kebab-case ", "ÀÉÎÕÜ ĞİŞ ǅ ",
]


def main():
    args = parse_args()
    transformers.utils.logging.set_verbosity_error()
    failures = []

    def check(ok, text):
        print(f"{'ok  ' if ok else 'FAIL'}  {text}")
        if not ok:
            failures.append(text)

    documents = make_documents(args.text)
    if args.nfc:
        documents = [unicodedata.normalize("NFC", document) for document in documents]
    size = sum(len(d.encode()) for d in documents)
    print(f"{len(documents)} documents, {size:,} bytes")
    with tempfile.TemporaryDirectory() as tmp:
        for folder in args.folders:
            print(f"\n{folder}")
            first = load_library(folder) if args.library else AutoTokenizer.from_pretrained(folder)
            gguf = Path(tmp) / "vocabulary.gguf"
            back = Path(tmp) / "back"
            translate(args.program, folder, gguf, str(args.rows or num_rows(folder, first)))
            translate(args.program, gguf, back)
            compare(check, first, AutoTokenizer.from_pretrained(back), documents, "there and back")
            compare_llama_cpp(check, first, gguf, documents, args.tolerate)
        if args.gguf:
            print(f"\n{args.gguf}")
            folder = Path(tmp) / "folder"
            translate(args.program, args.gguf, folder)
            tokenizer = AutoTokenizer.from_pretrained(folder)
            if args.reference:
                reference = AutoTokenizer.from_pretrained(args.reference)
                compare(check, reference, tokenizer, documents, f"as {args.reference}")
            compare_llama_cpp(check, tokenizer, args.gguf, documents, args.tolerate)
        if args.names:
            print(f"\n{args.names}")
            check_names(check, args, documents, Path(tmp))
    print(f"\n{'not equal' if failures else 'equal'}")
    sys.exit(1 if failures else 0)


def parse_args():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folders", nargs="*", type=Path)
    parser.add_argument("--gguf", type=Path)
    parser.add_argument("--reference", type=Path, help="what the folder made of --gguf must equal")
    parser.add_argument("--names", type=Path, metavar="FOLDER", help="check every pre-tokenizer")
    parser.add_argument("--text", nargs="+", type=Path, default=[], metavar="FILE")
    parser.add_argument("--nfc", action="store_true", help="compose the documents' characters")
    parser.add_argument("--rows", type=int, help="of the embedding; default: as many as tokens")
    parser.add_argument(
        "--library", action="store_true", help="read the folders by tokenizers, not transformers"
    )
    parser.add_argument("--tolerate", type=int, default=0, metavar="N")
    parser.add_argument(
        "--program", default="target/release/examples/translate_tokenizer", metavar="PATH"
    )
    args = parser.parse_args()
    if not args.folders and not args.gguf and not args.names:
        parser.error("give a folder, --gguf FILE or --names FOLDER")
    return args


def make_documents(files):
    rng = random.Random(1)
    documents = ["", " leading space", "trailing space ", "\n", "a", "é", "\x00"]
    documents += SAMPLES
    wanted = NUM_DOCUMENTS if not files else NUM_DOCUMENTS // 2
    while len(documents) < wanted:
        documents.append("".join(rng.choice(SAMPLES) for _ in range(rng.randint(2, 12))))
    for file in files:
        text = file.read_text(encoding="utf-8", errors="replace")
        for _ in range(-(-(NUM_DOCUMENTS - wanted) // len(files))):
            start = rng.randrange(max(1, len(text) - 2000))
            documents.append(text[start : start + rng.randint(50, 2000)])
    return documents


def load_library(folder):
    """tokenizer.json as it is: for some classes transformers 5 puts parts of its own in its place."""
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    post_processor = tokenizer.post_processor
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=tokenizer)
    tokenizer._tokenizer.post_processor = post_processor
    return tokenizer


def num_rows(folder, tokenizer):
    config = folder / "config.json"
    if config.is_file():
        return json.loads(config.read_text())["vocab_size"]
    return max(tokenizer.get_vocab().values()) + 1


def translate(program, *args):
    done = subprocess.run([program, *map(str, args)], capture_output=True, text=True)
    for line in done.stderr.splitlines():
        print(f"      {line}")
    if done.returncode != 0:
        sys.exit(2)


def compare(check, expected, found, documents, what):
    unlike = [d for d in documents if expected(d).input_ids != found(d).input_ids]
    show(unlike, lambda d: (expected(d).input_ids, found(d).input_ids), expected)
    tokens = sum(len(expected(d).input_ids) for d in documents)
    check(not unlike, f"{what}: {len(unlike)} of {len(documents)} documents differ ({tokens:,} tokens)")
    texts = [expected(d).input_ids for d in documents]
    unlike = [ids for ids in texts if expected.decode(ids) != found.decode(ids)]
    check(not unlike, f"{what}: {len(unlike)} texts differ when decoded")


def compare_llama_cpp(check, tokenizer, gguf, documents, tolerated):
    if llama_cpp is None:
        print("      llama_cpp cannot be imported; llama.cpp is not asked")
        return
    model = quietly(lambda: llama_cpp.Llama(str(gguf), vocab_only=True, verbose=False))

    def ids(document):
        return model.tokenize(document.encode(), add_bos=True, special=True)

    unlike = [d for d in documents if tokenizer(d).input_ids != ids(d)]
    show(unlike, lambda d: (tokenizer(d).input_ids, ids(d)), tokenizer)
    check(
        len(unlike) <= tolerated,
        f"llama.cpp: {len(unlike)} of {len(documents)} documents differ",
    )


def check_names(check, args, documents, tmp):
    import gguf

    model = json.loads((args.names / "tokenizer.json").read_text(encoding="utf-8"))["model"]
    tokens = sorted(model["vocab"], key=model["vocab"].get)
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]]
    # The folder composes characters where published ones do; llama.cpp never does.
    documents = [unicodedata.normalize("NFC", document) for document in documents]
    for name, differs in names_of_table():
        file, folder = tmp / "named.gguf", tmp / "named"
        writer = gguf.GGUFWriter(file, "llama")
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre(name)
        writer.add_token_list(tokens)
        writer.add_token_types([gguf.TokenType.NORMAL] * len(tokens))
        writer.add_token_merges(merges)
        writer.add_add_bos_token(False)
        # llama.cpp's defaults are ids of some model of old.
        writer.add_bos_token_id(len(tokens) - 1)
        writer.add_eos_token_id(len(tokens) - 1)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.close()
        translate(args.program, file, folder)
        tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        model = quietly(lambda: llama_cpp.Llama(str(file), vocab_only=True, verbose=False))
        unlike = sum(
            tokenizer.encode(d, add_special_tokens=False).ids
            != model.tokenize(d.encode(), add_bos=False, special=False)
            for d in documents
        )
        check(differs or not unlike, f"{name}: {unlike} of {len(documents)} documents differ")


def names_of_table():
    """Names, and whether llama.cpp is known to differ, in the order of the table."""
    source = Path(__file__).parent / "../crates/checkpoint/src/gguf/tokenizer/pre_tokenizer.rs"
    table = source.read_text(encoding="utf-8").split("static TABLE")[1].split("\n];")[0]
    for entry in table.split("plain(")[1:]:
        yield re.search(r'"([^"]+)"', entry).group(1), ".but(" in entry


def show(unlike, pair, tokenizer):
    for document in unlike[:SHOWN]:
        expected, found = pair(document)
        i = next((i for i, (a, b) in enumerate(zip(expected, found)) if a != b), 0)
        near = [tokenizer.convert_ids_to_tokens(ids[max(0, i - 1) : i + 5]) for ids in (expected, found)]
        print(f"      {document[:40]!r}: from token {i}: expected {near[0]}, found {near[1]}")


def quietly(call):
    """Runs `call` while what C code says on standard error is dropped."""
    saved, null = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 2)
    try:
        return call()
    finally:
        os.dup2(saved, 2)
        os.close(saved)
        os.close(null)


if __name__ == "__main__":
    main()
