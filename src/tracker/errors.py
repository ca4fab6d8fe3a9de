"""The errors of the project. Each kind of fault has one type. `tracker.aws` converts botocore's exceptions into them.

`tracker.exit_status` lists the exit status of each.
"""


class TrackerError(Exception):
    """Base of everything the project raises on purpose."""


class ConfigurationError(TrackerError):
    """A mistake in the configuration, which the operator has to fix. The process exits with status 78."""


class ConfigurationUnreadable(ConfigurationError):
    """The file of the configuration could not be read, so nothing is known about its content."""


class UsageError(TrackerError):
    """The options of a command line contradict each other, or one has a wrong value. The exit status is 2."""


class HeldByAnother(TrackerError):
    """Another process holds an address or a lock. It may end soon, so it makes sense to start this one again."""


class StopRequested(TrackerError):
    """A stop was requested while the service was still starting; the process exits with status 0."""


class ReloadFailed(TrackerError):
    """A new configuration could not be applied. The service continues with the previous one."""


class MalformedMessage(TrackerError):
    """A message or line that is not in the expected form. It is counted; a message is left to the dead-letter queue."""


class ConflictingMessage(TrackerError):
    """A message whose bytes differ from the stored ones of the same range of the same journal.

    It is counted and left to the dead-letter queue, because only one of the two can be what the pixel recorded.
    """


class PublishFailed(TrackerError):
    """SNS did not accept a message; try again later."""


class PublishThrottled(PublishFailed):
    """SNS accepts no more messages at the moment, because too many were published within a second."""


class PublishRefused(PublishFailed):
    """SNS answered that the request has a fault: in the topic, its permissions, or the message."""


class QueueFailed(TrackerError):
    """SQS could not be reached or refused a call; try again later."""


class AwsUnreachable(TrackerError):
    """AWS could not be asked: no credentials, no region, no network, or the answer was not AWS's."""


class AwsRefused(TrackerError):
    """AWS answered a call with an error. `code` is AWS's name of the error, `date` the `Date` header of the answer."""

    def __init__(self, text: str, *, code: str, status: int = 400, date: str | None = None) -> None:
        super().__init__(text)
        self.code = code
        self.status = status
        self.date = date

    @property
    def is_missing(self) -> bool:
        """Whether the topic, queue or subscription does not exist."""
        return any(word in self.code for word in ("NonExistent", "NotFound", "DoesNotExist"))

    @property
    def is_unsupported(self) -> bool:
        """Whether the endpoint does not know the call. AWS knows all that we make; other brokers may not."""
        return self.status == 501 or any(
            word in self.code
            for word in ("InvalidAction", "NotImplemented", "UnknownOperation", "UnsupportedOperation")
        )

    @property
    def is_denied(self) -> bool:
        """Whether AWS knows the credentials, but they have no permission for this call."""
        return any(word in self.code for word in ("AccessDenied", "AuthorizationError", "UnauthorizedOperation"))

    @property
    def is_unknown_caller(self) -> bool:
        """Whether AWS does not accept the credentials themselves."""
        return any(
            word in self.code
            for word in (
                "InvalidClientTokenId",
                "SignatureDoesNotMatch",
                "ExpiredToken",
                "UnrecognizedClient",
                "InvalidAccessKeyId",
                "MissingAuthentication",
                "RequestTimeTooSkewed",
            )
        )


class UnknownJournal(TrackerError):
    """A ledger does not know the journal that a person has named."""


class ArchiveConflict(TrackerError):
    """An object of the archive has the name of a closed log's, and other lines. The operator has to look."""


class MarkerFailed(TrackerError):
    """The marker of an archived closed log could not be written. That of the next log could not either."""


class AppendFailed(TrackerError):
    """A batch could not be written to the visit log or its ledger; none of its messages may be deleted from SQS."""


class AppendPaused(AppendFailed):
    """Nothing can be appended at the moment. The append was rolled back: wait and try again.

    `event` names the cause in the log message about the pause.
    """

    event = "log_unusable"


class StorageFull(AppendPaused):
    """The disk of the visit log or of its ledger is full."""

    event = "storage_full"


class LedgerBusy(AppendPaused):
    """Another program has locked the ledger."""

    event = "ledger_busy"


class LedgerMoved(AppendPaused):
    """The ledger's file was removed, moved or replaced. The next start would not find what is committed to it now."""

    event = "ledger_moved"


class LogChanged(AppendFailed):
    """The visit log or its ledger is not as storage left it. Only the operator can decide how to continue."""


class LedgerDamaged(LogChanged):
    """The ledger's file is not a database, or it is damaged."""


class LogMoved(LogChanged, AppendPaused):
    """The visit log was renamed, its content unchanged: pause until a SIGHUP confirms that this was intended."""

    event = "log_moved"
