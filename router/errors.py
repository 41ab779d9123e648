"""Errors of Apportion; every message says what to do next.

ApportionError                      500  internal_error
├── InvalidRequestError             400  invalid_request
│   ├── UnknownModelError           404  model_not_found
│   ├── UnknownAnswerError          404  answer_not_found
│   ├── NotFoundError               404  not_found
│   ├── PayloadTooLargeError        413  payload_too_large
│   ├── UnsupportedEncodingError    415  unsupported_encoding
│   ├── UploadTimeoutError          408  upload_timeout
│   ├── ContextLengthError          400  context_length_exceeded
│   ├── AuthenticationError         401  invalid_api_key
│   └── PermissionDeniedError       403  permission_denied
│       └── ModelDeniedError        403  model_not_allowed
├── InfeasibleError                 422  no_feasible_assignment
│   └── BudgetExceededError         402  budget_exceeded
│       └── BudgetExhaustedError    429  budget_exhausted
├── ConfigurationError              500  invalid_configuration
│   ├── OutcomesTableError          500  invalid_outcomes_table
│   └── ArtefactError               500  invalid_artefact
├── OverloadedError                 429  overloaded
│   └── RateLimitError              429  rate_limit_exceeded
├── UnavailableError                503  unavailable
│   ├── AsleepError                 503  model_asleep
│   ├── LedgerError                 503  ledger_unavailable
│   └── LeaseLostError              503  lease_lost
└── DeadlineError                   504  deadline_exceeded
"""

from __future__ import annotations

from typing import ClassVar


class ApportionError(Exception):
    """Base of all errors; carries its HTTP status and its code in OpenAI's error envelope.

    `retry_after_s`: when it is worth trying again, where that is known.
    """

    status: ClassVar[int] = 500
    code: ClassVar[str] = "internal_error"
    type: ClassVar[str] = "server_error"

    def __init__(self, message: str, *, param: str | None = None, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.retry_after_s = retry_after_s

    def __reduce__(self) -> tuple[object, ...]:
        return (_rebuild, (self.__class__, self.message, self.param, self.retry_after_s))

    def envelope(self) -> dict[str, dict[str, str | None]]:
        """The body that OpenAI's API answers with: `{"error": {message, type, param, code}}`."""
        return {"error": {"message": self.message, "type": self.type, "param": self.param, "code": self.code}}


def _rebuild(cls: type[ApportionError], message: str, param: str | None, retry_after_s: float | None) -> ApportionError:
    return cls(message, param=param, retry_after_s=retry_after_s)


class InvalidRequestError(ApportionError):
    status, code, type = 400, "invalid_request", "invalid_request_error"


class UnknownModelError(InvalidRequestError):
    status, code = 404, "model_not_found"


class UnknownAnswerError(InvalidRequestError):
    status, code = 404, "answer_not_found"


class NotFoundError(InvalidRequestError):
    """There is no such thing, or it is somebody else's."""

    status, code = 404, "not_found"


class UnsupportedEncodingError(InvalidRequestError):
    status, code = 415, "unsupported_encoding"


class PayloadTooLargeError(InvalidRequestError):
    status, code = 413, "payload_too_large"


class UploadTimeoutError(InvalidRequestError):
    status, code = 408, "upload_timeout"


class ContextLengthError(InvalidRequestError):
    code = "context_length_exceeded"


class AuthenticationError(InvalidRequestError):
    status, code = 401, "invalid_api_key"


class PermissionDeniedError(InvalidRequestError):
    """The caller may not ask for this; another may."""

    status, code = 403, "permission_denied"


class ModelDeniedError(PermissionDeniedError):
    code = "model_not_allowed"


class InfeasibleError(ApportionError):
    """No assignment keeps every limit; the message names the limit and by how much it is missed."""

    status, code, type = 422, "no_feasible_assignment", "insufficient_capacity"


class BudgetExceededError(InfeasibleError):
    status, code, type = 402, "budget_exceeded", "insufficient_quota"


class BudgetExhaustedError(BudgetExceededError):
    """There is money again after `retry_after_s`."""

    status, code = 429, "budget_exhausted"


class ConfigurationError(ApportionError):
    code = "invalid_configuration"


class OutcomesTableError(ConfigurationError):
    code = "invalid_outcomes_table"


class ArtefactError(ConfigurationError):
    code = "invalid_artefact"


class OverloadedError(ApportionError):
    status, code, type = 429, "overloaded", "rate_limit_error"


class RateLimitError(OverloadedError):
    """This caller asks too often; others may be served."""

    code = "rate_limit_exceeded"


class UnavailableError(ApportionError):
    status, code = 503, "unavailable"


class AsleepError(UnavailableError):
    """Only models without a replica may answer; one starts for whoever waits."""

    code = "model_asleep"


class LedgerError(UnavailableError):
    """The budget cannot be checked, so nothing may be spent."""

    code = "ledger_unavailable"


class LeaseLostError(UnavailableError):
    """Somebody else works on this now."""

    code = "lease_lost"


class DeadlineError(ApportionError):
    status, code, type = 504, "deadline_exceeded", "timeout_error"
