"""`tidegate bench load`: load for any OpenAI-compatible URL, and what came of it.

`plan` says what is sent and when, `drive` sends it, `figures` makes numbers of what happened,
`report` draws them. Only `drive` and `command` touch a socket, a clock or a screen.

Two loops, because they answer two questions. *Closed*: so many callers, each asks again when it was
answered; it finds what a server can do, and hides its stalls, for nobody asks meanwhile. *Open*:
requests come at their times whatever happens, as users do, and every time is measured from when the
request was to be sent. So a request that had to wait behind a stall counts with its wait, and
coordinated omission is not hidden.
"""
