"""The project's errors. The type says what to do about it; vendor exceptions stop in `aws`."""


class TrackerError(Exception):
    """Base of everything the project raises on purpose."""


class ConfigurationError(TrackerError):
    """A mistake in the configuration, which the operator has to fix. The process exits with status 78."""


class ConfigurationUnreadable(ConfigurationError):
    """The file of the configuration could not be read, so nothing is known about its content."""


class UsageError(TrackerError):
    """The words of a command line do not go together, or one is not what the option expects. Exit status 2."""


class HeldByAnother(TrackerError):
    """Another process holds an address or a lock. It may end soon, so a supervisor should start this one again."""


class StopRequested(TrackerError):
    """A stop was requested while the service was still starting; the process exits with status 0."""


class ReloadFailed(TrackerError):
    """A new configuration could not be put to work; the old one goes on."""


class MalformedMessage(TrackerError):
    """A message or line that is not what the wire contract says; it is counted and left where it is."""


class ConflictingMessage(TrackerError):
    """A message whose bytes differ from those that another message has brought for the same range of a journal.

    It is counted and left where it is, for only one of the two can be what the pixel recorded.
    """


class PublishFailed(TrackerError):
    """SNS did not take a message; try again later."""


class PublishRefused(PublishFailed):
    """SNS answered that the request is at fault: the topic, its permissions, or what is in the message."""


class QueueFailed(TrackerError):
    """SQS could not be reached or refused a call; try again later."""


class AwsUnreachable(TrackerError):
    """AWS could not be asked: no credentials, no region, no network, or something else answered in its place."""


class AwsRefused(TrackerError):
    """AWS answered a call with an error; `code` is its own name for it, `date` its clock's HTTP date."""

    def __init__(self, text: str, *, code: str, status: int = 400, date: str | None = None) -> None:
        super().__init__(text)
        self.code = code
        self.status = status
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


class LedgerBusy(AppendPaused):
    """Another program has locked the ledger."""

    event = "ledger_busy"


class LedgerMoved(AppendPaused):
    """The ledger's file was removed, moved or replaced: the next start would not see what is committed to it now."""

    event = "ledger_moved"


class LogChanged(AppendFailed):
    """The visit log or its ledger is not as this process left it; only the operator can say what is right."""


class LedgerDamaged(LogChanged):
    """The ledger's file is no database, or a damaged one."""


class LogMoved(LogChanged, AppendPaused):
    """The visit log was put aside, whole, under another name: pause until a SIGHUP says that this was meant."""

    event = "log_moved"
