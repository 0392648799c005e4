"""SentencePiece's tokenizer.model (a protocol buffer) as the content of a tokenizer.json, without further packages.

Message layout (sentencepiece_model.proto): ModelProto {1: repeated SentencePiece, 2: TrainerSpec, 3: NormalizerSpec};
SentencePiece {1: piece, 2: score, 3: type}; TrainerSpec {3: model_type, 35: byte_fallback};
NormalizerSpec {1: name, 3: add_dummy_prefix, 4: remove_extra_whitespaces, 5: escape_whitespaces}.
"""

from __future__ import annotations

import os
import pathlib
import struct
from collections.abc import Iterator
from typing import Any

from vtjax.errors import VtjaxError

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)
_BPE = 2


def read_model(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The content of the tokenizer.json (version 1.0) with the same pieces and merges.

    Raises:
      VtjaxError: not a SentencePiece model, damaged, or not like LLaMA's: byte-pair merging with byte fallback, no
        text normalisation.
    """
    path = pathlib.Path(path)
    try:
        fields = list(_fields(path.read_bytes()))
        pieces = [_piece(value) for number, value in fields if number == 1]
        trainer = dict(_fields(next(value for number, value in fields if number == 2)))
        normalizer = dict(_fields(next((value for number, value in fields if number == 3), b"")))
        name = bytes(normalizer.get(1, b"")).decode()
    except (ValueError, IndexError, TypeError, StopIteration, struct.error, OSError) as error:
        raise VtjaxError(f"{path}: not a SentencePiece model, or damaged ({type(error).__name__}: {error})") from error
    if trainer.get(3, 1) != _BPE or not trainer.get(35, 0):
        raise VtjaxError(f"{path}: not a byte-pair model with byte fallback, as LLaMA's is")
    if name not in ("", "identity") or normalizer.get(4, 1):
        raise VtjaxError(f"{path}: it normalises its text ({name or 'extra spaces'}), which LLaMA's does not")
    vocab = {piece: i for i, (piece, _, _) in enumerate(pieces)}
    if len(vocab) != len(pieces):
        raise VtjaxError(f"{path}: a piece is listed twice")
    special = [(i, piece) for i, (piece, _, kind) in enumerate(pieces) if kind in (UNKNOWN, CONTROL, USER_DEFINED)]
    unknown = next((piece for piece, _, kind in pieces if kind == UNKNOWN), "<unk>")
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": i, "content": piece, **flags} for i, piece in special],
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": unknown,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": True,
            "byte_fallback": True,
            "ignore_merges": False,
            "vocab": vocab,
            "merges": _merges(pieces, vocab),
        },
    }


def _merges(pieces: list[tuple[str, float, int]], vocab: dict[str, int]) -> list[list[str]]:
    """Every pair of pieces whose union is a piece, best piece first: SentencePiece merges by the score of the union."""
    ranked = sorted(
        ((-score, i, piece) for i, (piece, score, kind) in enumerate(pieces) if kind == NORMAL), key=lambda t: t[:2]
    )
    merges = []
    for _, _, piece in ranked:
        halves = [(piece[:cut], piece[cut:]) for cut in range(1, len(piece))]
        merges += [list(pair) for pair in halves if pair[0] in vocab and pair[1] in vocab]
    return merges


def _piece(message: bytes) -> tuple[str, float, int]:
    fields = dict(_fields(message))
    return bytes(fields[1]).decode(), struct.unpack("<f", fields.get(2, bytes(4)))[0], fields.get(3, NORMAL)


def _fields(message: bytes) -> Iterator[tuple[int, Any]]:
    """(number, value) of a message: integers for varints, bytes for the rest."""
    at = 0
    while at < len(message):
        tag, at = _varint(message, at)
        number, kind = tag >> 3, tag & 7
        if kind == 0:
            value, at = _varint(message, at)
            yield number, value
            continue
        if kind == 2:
            size, at = _varint(message, at)
        elif kind in (1, 5):
            size = 8 if kind == 1 else 4
        else:
            raise ValueError(f"wire type {kind} at byte {at}")
        if at + size > len(message):
            raise ValueError(f"a field of {size} bytes at byte {at} passes the end")
        yield number, message[at : at + size]
        at += size


def _varint(message: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = message[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at
        if shift > 63:
            raise ValueError(f"a number of more than 10 bytes at byte {at}")
