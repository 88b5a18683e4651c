"""Cut the text that ships with the package out of the corpus: ``python -m interp.embedded.text --corpus CORPUS``.

Documents of whole paragraphs, spread evenly over each book, so that a small file still holds every author.
"""

import argparse
import json
from pathlib import Path

from interp.embedded import TEXT_FOLDER
from interp.files.writing import atomic_path

DOCUMENT_CHARACTERS = 3000
BYTES = {"train": 980_000, "heldout": 290_000}
HELDOUT_BOOKS = ("emma.txt", "the-time-machine.txt")


def documents_of(book: str, *, characters: int = DOCUMENT_CHARACTERS) -> list[str]:
    """Consecutive whole paragraphs, at least ``characters`` long together (the last document may be shorter)."""
    documents: list[str] = []
    document = ""
    for paragraph in book.split("\n\n"):
        document = f"{document}\n\n{paragraph}" if document else paragraph
        if len(document) >= characters:
            documents.append(document)
            document = ""
    return [*documents, document] if document else documents


def sample(books: list[Path], *, size: int) -> list[dict[str, str]]:
    """About ``size`` bytes of documents, the same number of bytes from each book, evenly spaced within it."""
    rows = []
    for file in books:
        documents = documents_of(file.read_text(encoding="utf-8"))
        wanted = max(1, size // len(books) // DOCUMENT_CHARACTERS)
        stride = max(1, len(documents) // wanted)
        rows += [{"text": document, "book": file.stem} for document in documents[::stride][:wanted]]
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--corpus", type=Path, required=True, help="folder with train/ and heldout/")
    corpus = parser.parse_args().corpus
    books = {
        "train": sorted((corpus / "train").glob("*.txt")),
        "heldout": [corpus / "heldout" / name for name in HELDOUT_BOOKS],
    }
    for split, files in books.items():
        with atomic_path(TEXT_FOLDER / f"{split}.jsonl") as partial:
            lines = [json.dumps(row, ensure_ascii=False) for row in sample(files, size=BYTES[split])]
            partial.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
