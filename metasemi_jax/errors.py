"""The exceptions that users see."""


class UserError(Exception):
    """Something the user can mend. The message is one line: what is wrong, and what to do."""


class DivergedError(UserError):
    """The loss or the weights are no longer finite numbers, after so many `rollbacks` of the run."""

    def __init__(self, what: str, advice: str, *, rollbacks: int):
        super().__init__(f'{what}. {advice}')
        self.what = what
        self.rollbacks = rollbacks
