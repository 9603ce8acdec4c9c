"""What goes wrong, as a client sees it."""


class ApiError(Exception):
    """An answer with `status`; `code` is for programs, the message for people."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
