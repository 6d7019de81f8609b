"""What was typed, pasted or read from a file as a credential, before anything is sent with it."""

from pydantic import SecretStr


def checked_credential(given: SecretStr | str, name: str) -> SecretStr:
    """Without white space around it: files and environment variables often end in a line break.

    Raises ValueError, without the credential, for what cannot be one: no header could carry it.
    """
    text = (given.get_secret_value() if isinstance(given, SecretStr) else given).strip()
    if not text:
        raise ValueError(f"{name} is empty: give it as it was printed when it was made")
    if not text.isascii() or not text.isprintable() or " " in text:
        raise ValueError(f"{name} has a space, a line break or a letter that none has: give it as it was printed")
    return SecretStr(text)
