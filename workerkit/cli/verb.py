"""What all commands share: the kits of an app, answers as tables or JSON, and exit codes fit for scripts."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from difflib import get_close_matches
from typing import IO, TYPE_CHECKING, Any, NamedTuple

import click

from workerkit.errors import WorkerKitError

if TYPE_CHECKING:
    from workerkit.api.kit import WorkerKit

EXITS = "Exits with 0 when done, 1 when the answer is bad news, 2 when used wrongly or Redis cannot be reached."
# Whose lines say nothing to the user.
_NOT_THEIRS = {"__main__", "workerkit", "celery", "kombu", "vine", "click", *sys.stdlib_module_names}
_NAMED = 20
_KIT = "workerkit.kit"  # where a click context keeps --kit


class Refusal(click.ClickException):
    """Wrong use, or nothing to work on: one line that says what to write instead; exits with 2."""

    exit_code = 2

    def show(self, file: IO[Any] | None = None) -> None:
        """Print it."""
        click.echo(f"workerkit: {plain(self.format_message())}", err=True, file=file)


class NotFound(Refusal):
    """What was named is not there: one line, and exits with 1."""

    exit_code = 1


class Command(click.Command):
    """A command whose errors end it with one line and an exit code, and whose help says which."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **{"epilog": EXITS, **options})

    def invoke(self, ctx: click.Context) -> Any:
        """Run it. A reader that has gone (`| head`) ends it as the shell's own commands."""
        try:
            return self.answer(ctx)
        except WorkerKitError as error:
            raise Refusal(str(error)) from None
        except KeyboardInterrupt:
            ctx.exit(130)
        except BrokenPipeError:
            _drop_stdout()
            ctx.exit(141)

    def answer(self, ctx: click.Context) -> Any:
        """What the command does."""
        return super().invoke(ctx)


class Verb(Command):
    """A command on an app's kits: `kits(ctx)`. Has the option --kit, for apps with several."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.params.append(
            click.Option(
                ["--kit"], metavar="NAMESPACE", expose_value=False, callback=_choose, help="Of this kit alone."
            )
        )


class Answer(NamedTuple):
    """What a Query answers: `data` for --json; `show` prints it for people; `status` is the exit code."""

    data: Any
    show: Callable[[], None]
    status: int = 0


class Query(Verb):
    """A verb that answers once, by returning an Answer: a table, or with --json one JSON document.

    What the app's own code prints meanwhile goes to stderr: it is no part of the answer.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.params.append(click.Option(["--json", "as_json"], is_flag=True, help="Print one JSON document instead."))

    def answer(self, ctx: click.Context) -> Any:
        """Find the answer, then print it."""
        as_json = ctx.params.pop("as_json")
        with apart():
            answer: Answer = super().answer(ctx)
        if as_json:
            import json

            click.echo(json.dumps(answer.data, allow_nan=False))
        else:
            answer.show()
        ctx.exit(answer.status)


class Verbs(click.Group):
    """A group of queries."""

    command_class = Query

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **{"epilog": f"Each takes --json. {EXITS}", **options})

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The first sentence of each whole: click would cut it off at the screen's edge."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, each.get_short_help_str(200)) for name, each in sorted(self.commands.items())])


def kits(ctx: click.Context) -> list[WorkerKit]:
    """The app's kits, or the one that --kit chose. Raises Refusal when there is none."""
    if ctx.obj is None:
        raise Refusal("of which app? write workerkit -A shop ..., as for celery")
    app: Any = ctx.obj.app
    with apart():
        _load(app)
        found: list[WorkerKit] = list(getattr(app, "workerkits", []))
        if not found:
            raise Refusal(f"{app.main or 'this app'} has no workerkit: write kit = WorkerKit(app)")
        chosen = ctx.meta.get(_KIT)
        if chosen is None:
            return found
        names = titles(found)
    if chosen not in names:
        raise Refusal(f"there is no kit {chosen!r:.60}; the app's are {', '.join(names)}")
    return [found[names.index(chosen)]]


def titles(found: Sequence[WorkerKit]) -> list[str]:
    """What tells kits apart: their namespaces, numbered where several have the same."""
    spaces = [kit.settings.namespace for kit in found]
    return [
        space if spaces.count(space) == 1 else f"{space}#{spaces[: number + 1].count(space)}"
        for number, space in enumerate(spaces)
    ]


def missing(what: str, name: str, known: Iterable[str]) -> NotFound:
    """The error for a name that nothing has: those that there are, the most alike first."""
    names = sorted(set(known))
    alike = get_close_matches(name, names, n=3, cutoff=0.5)
    listed = [*alike, *[each for each in names if each not in alike]]
    more = f" and {len(listed) - _NAMED:,} more" if len(listed) > _NAMED else ""
    return NotFound(f"there is no {what} {name!r:.60}; there are: {', '.join(listed[:_NAMED]) or 'none'}{more}")


@contextmanager
def apart() -> Iterator[None]:
    """Meanwhile what the app's own code prints, and logs, goes to stderr."""
    with redirect_stdout(sys.stderr):
        try:
            yield
        finally:
            sys.stderr.flush()  # before the answer


def plain(text: object) -> str:
    """Text of the user's for a terminal: what is not printable (control characters, for instance) is escaped."""
    return "".join(
        each if each.isprintable() else each.encode("unicode_escape", "surrogatepass").decode() for each in str(text)
    )


def where(error: BaseException) -> str:
    """An error of the user's code in a line: what, and the user's line that it came through last."""
    at, place = error.__traceback__, ""
    while at is not None:
        if at.tb_frame.f_globals.get("__name__", "").partition(".")[0] not in _NOT_THEIRS:
            place = f" ({at.tb_frame.f_code.co_filename}, line {at.tb_lineno})"
        at = at.tb_next
    return f"{type(error).__name__}: {error}{place}"


def _load(app: Any) -> None:
    # The kit may be made in a module that nothing has imported yet.
    try:
        app.loader.import_default_modules()
    except WorkerKitError:
        raise
    except Exception as error:  # noqa: BLE001 - the app's own code, which may raise anything
        raise Refusal(f"the app's modules cannot be imported: {where(error)}") from None


def _choose(ctx: click.Context, _: click.Parameter, value: str | None) -> None:
    ctx.meta[_KIT] = value


def _drop_stdout() -> None:
    """So that nothing is written to it at the interpreter's end, either."""
    import os

    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
