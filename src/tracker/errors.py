"""The project's errors. The type says what to do about it; vendor exceptions stop in `aws`."""


class TrackerError(Exception):
    """Base of everything the project raises on purpose."""


class ConfigurationError(TrackerError):
    """The operator has to change something; the process exits with status 78 (EX_CONFIG of sysexits.h)."""


class HeldByAnother(TrackerError):
    """Another process holds an address or a lock. It may end soon, so a supervisor should start this one again."""


class ReloadFailed(TrackerError):
    """A new configuration could not be put to work; the old one goes on."""


class MalformedMessage(TrackerError):
    """A message or line that is not what the wire contract says; it is counted and left where it is."""


class PublishFailed(TrackerError):
    """SNS did not take a message; try again later."""


class PublishRefused(PublishFailed):
    """SNS answered that the request is at fault: the topic, its permissions, or what is in the message."""


class QueueFailed(TrackerError):
    """SQS could not be reached or refused a call; try again later."""


class AwsUnreachable(TrackerError):
    """A command could not ask AWS: no credentials, no region, no network."""


class AwsRefused(TrackerError):
    """AWS answered a command with an error; `code` is its own name for it, `date` its clock's HTTP date."""

    def __init__(self, text: str, *, code: str, date: str | None = None) -> None:
        super().__init__(text)
        self.code = code
        self.date = date

    @property
    def is_missing(self) -> bool:
        """Whether what was asked for does not exist."""
        return any(word in self.code for word in ("NonExistent", "NotFound", "DoesNotExist"))

    @property
    def is_denied(self) -> bool:
        """Whether these credentials may not ask, though they are known."""
        return any(word in self.code for word in ("AccessDenied", "AuthorizationError", "UnauthorizedOperation"))

    @property
    def is_unknown_caller(self) -> bool:
        """Whether the credentials themselves were not taken."""
        return any(
            word in self.code
            for word in (
                "InvalidClientTokenId",
                "SignatureDoesNotMatch",
                "ExpiredToken",
                "UnrecognizedClient",
                "InvalidAccessKeyId",
                "MissingAuthentication",
            )
        )


class AppendFailed(TrackerError):
    """The visit log or its ledger did not take a batch; nothing of it may be deleted from SQS."""


class AppendPaused(AppendFailed):
    """Nothing can be appended for now. The append was rolled back: wait and try again.

    `event` is the first word of the log message about it.
    """

    event = "append_paused"


class StorageFull(AppendPaused):
    """The disk of the visit log or of its ledger has no room."""

    event = "storage_full"


class LogChanged(AppendFailed):
    """The visit log is not as the ledger knows it; only the operator can say what is right."""


class LogMoved(LogChanged, AppendPaused):
    """The visit log was put aside, whole, under another name: pause until a SIGHUP says that this was meant."""

    event = "log_moved"
