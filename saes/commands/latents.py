"""Latents as they are named in a command: 0,5,9, or of several parts 0/5,2/9."""


def read_latents(text: str) -> list[tuple[int | None, int]]:
    """Of each the part, where one is given, and the number.

    Raises:
        ValueError: they are not of this form.
    """
    return [_number(word, text) for word in text.split(",")]


def placed(pair: tuple[int | None, int], parts: int, latents: str | None) -> tuple[int, int]:
    """With the part, which may be left out where there is one; an SAE has none."""
    part, latent = pair
    if part is not None and not parts:
        raise ValueError(f"--latents {latents}: an SAE has no parts; give the number alone, such as {latent}")
    if part is None and parts > 1:
        raise ValueError(f"--latents {latents}: there are {parts} parts; give the part of each, such as 0/{latent}")
    return part or 0, latent


def _number(word: str, latents: str) -> tuple[int | None, int]:
    try:
        part, slash, number = word.rpartition("/")
        return int(part) if slash else None, int(number)
    except ValueError:
        raise ValueError(
            f"--latents {latents}: numbers with commas between them are wanted, such as 0,5,9, or of several parts"
            " 0/5,2/9"
        ) from None
