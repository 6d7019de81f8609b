"""The text of a document, or why there is none. Takes whatever time and memory the document makes it take."""

from nubabel_workers.adapters.documents.office import text_of_office
from nubabel_workers.adapters.documents.pdf import text_of_pdf
from nubabel_workers.adapters.documents.pieces import NotReadableError
from nubabel_workers.domain.documents import DocumentForm, DocumentText, Unread

_READERS = {DocumentForm.PDF: text_of_pdf, DocumentForm.ZIP: text_of_office}


def read(content: bytes, form: DocumentForm) -> DocumentText | Unread:
    try:
        return _READERS[form](content)
    except NotReadableError as error:
        return error.reason
    except MemoryError:
        return Unread.TOO_LONG
    except Exception:  # noqa: BLE001 - a library that reads what anybody wrote may raise anything
        return Unread.DAMAGED
