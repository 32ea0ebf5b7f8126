"""The native module: what `flyte` does, it does here.

Written by hand and compared with the module by `mypy.stubtest` and `tests/typing`. Users take
these names from `flyte` and `flyte.remote`; the functions at the end are for this package alone.
"""

from collections.abc import Awaitable
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from os import PathLike
from typing import Any, Literal, final

from typing_extensions import Self

from flyte._dual import _dual_static, _DualMethod
from flyte.app import AppEnvironment
from flyte.remote import DeploymentStatus, DesiredState

__all__ = [
    "__version__",
    "configure",
    "configure_in_cluster",
    "act_for_callers",
    "current_scope",
    "App",
    "app_endpoint",
    "run_platform",
    "shutdown",
    "LogLines",
    "ServeContext",
    "with_servecontext",
    "image_tag",
    "build_image",
    "build_image_async",
    "build_images",
    "build_images_async",
    "fserve_prepare",
    "StorageReading",
    "storage_fetch",
    "storage_fetch_async",
    "storage_list",
    "storage_open",
    "storage_send",
    "storage_send_async",
    "command_line",
]

__version__: str

@final
class App:
    """An app on a platform, as `flyte.serve` returns it.

    The properties tell what was last known and ask nobody. Methods ask the platform; each has a
    form to await, `app.activate.aio(...)` beside `app.activate(...)`. An app that was served by
    another program is found with `App.get`.

    Example:
        >>> app = flyte.serve(env)              # doctest: +SKIP
        >>> app.endpoint                        # doctest: +SKIP
        'http://localhost:24817'
        >>> app.deactivate(wait=True)           # doctest: +SKIP
        App(name='hello', status=stopped, revision=1, endpoint='http://localhost:24817')
    """

    @property
    def name(self) -> str:
        """Name of the app, unique in its project and domain."""

    @property
    def project(self) -> str:
        """Project that the app is in."""

    @property
    def domain(self) -> str:
        """Domain that the app is in, such as `development`."""

    @property
    def url(self) -> str:
        """URL of the app's page on the platform, for people; empty after a dry run."""

    @property
    def endpoint(self) -> str:
        """URL at which the app answers requests; the same for as long as the app exists."""

    @property
    def revision(self) -> int:
        """How often the app was changed by serving it; 1 at first, 0 after a dry run."""

    @property
    def deployment_status(self) -> DeploymentStatus:
        """What the app was doing when the platform was last asked; see `is_active` to ask anew."""

    @property
    def desired_state(self) -> DesiredState:
        """What the app was last told to be doing."""

    def to_json(self) -> str:
        """Return the app as last seen, in the protocol's JSON form.

        Example:
            >>> json.loads(app.to_json())["metadata"]["id"]["name"]     # doctest: +SKIP
            'hello'
        """

    def to_dict(self) -> dict[str, Any]:
        """Return the app as last seen, in the protocol's JSON form, as a dict.

        Example:
            >>> app.to_dict()["metadata"]["id"]["name"]     # doctest: +SKIP
            'hello'
        """

    def _repr_html_(self) -> str:
        """Return the app as a notebook shows it, with what the platform says of it now.

        Takes 5 seconds at most; after that the last known state counts.

        Example:
            >>> app._repr_html_()       # doctest: +SKIP
            '<div ...'
        """

    @_DualMethod
    def is_active(self) -> bool:
        """Ask the platform whether the app answers requests.

        Takes 5 seconds at most; after that the last known state counts.

        Raises:
            flyte.errors.NotFoundError: the app was deleted.
            flyte.errors.UnavailableError: the platform cannot be reached.

        Example:
            >>> app.is_active()     # doctest: +SKIP
            True
        """

    @_DualMethod
    def is_deactivated(self) -> bool:
        """Ask the platform whether the app was put to rest.

        Takes 5 seconds at most; after that the last known state counts.

        Raises:
            flyte.errors.NotFoundError: the app was deleted.
            flyte.errors.UnavailableError: the platform cannot be reached.

        Example:
            >>> app.is_deactivated()    # doctest: +SKIP
            False
        """

    @_DualMethod
    def activate(self, wait: bool = False) -> App:
        """Let a deactivated app run again; an app that runs is left alone.

        Args:
            wait: return when the app answers requests, after `activate_timeout` seconds at most.

        Returns:
            The same app.

        Raises:
            flyte.errors.AppError: with `wait`, the app did not come up; has its last log lines.
            flyte.errors.TimeoutError: with `wait`, the time is over.
            flyte.errors.NotFoundError: the app was deleted.

        Example:
            >>> app.activate(wait=True).is_active()     # doctest: +SKIP
            True
        """

    @_DualMethod
    def deactivate(self, wait: bool = False) -> App:
        """Put the app to rest: no process of it runs until `activate`, its endpoint stays its own.

        Args:
            wait: return when its processes have ended, after `deactivate_timeout` seconds at most.

        Returns:
            The same app.

        Raises:
            flyte.errors.TimeoutError: with `wait`, the time is over.
            flyte.errors.NotFoundError: the app was deleted.

        Example:
            >>> app.deactivate(wait=True).is_deactivated()      # doctest: +SKIP
            True
        """

    @_DualMethod
    def watch(self, wait_for: Literal["activated", "deactivated"] = "activated") -> App:
        """Wait for the app to reach a state, however long that takes (a day at most).

        Args:
            wait_for: `"activated"` or `"deactivated"`.

        Returns:
            The same app.

        Raises:
            ValueError: another word in `wait_for`.
            flyte.errors.AppError: the app failed, or was deactivated or deleted meanwhile.

        Example:
            >>> app.activate().watch("activated")       # doctest: +SKIP
            App(name='hello', status=active, revision=1, endpoint='http://localhost:24817')
        """

    @_DualMethod
    def delete(self: App | str, project: str | None = None, domain: str | None = None) -> None:
        """End the app and forget it, its endpoint and its logs.

        Called on the class it takes the name of an app: `App.delete("hello")`.

        Args:
            self: the app, or its name.
            project: with a name: where it is; the configured project when left out.
            domain: with a name: where it is; the configured domain when left out.

        Raises:
            flyte.errors.NotFoundError: there is no such app, or it was deleted before.

        Example:
            >>> app.delete()    # doctest: +SKIP
        """

    def logs(self, *, follow: bool = False, tail: int | None = None) -> LogLines:
        """Return what the app wrote to standard output and standard error, line by line.

        Args:
            follow: go on with new lines until the loop is left.
            tail: begin with this many last lines; with all that are kept when left out.

        Returns:
            An iterator over lines, for `for` as for `async for`; asks when it is first advanced.

        Raises:
            flyte.errors.NotFoundError: the app was deleted; raised by the iterator.

        Example:
            >>> for line in app.logs(tail=10):      # doctest: +SKIP
            ...     print(line)
        """

    def ephemeral_ctx(self) -> AbstractAsyncContextManager[App]:
        """Keep the app active inside an `async with` block and deactivate it at the end.

        Example:
            >>> async with app.ephemeral_ctx():     # doctest: +SKIP
            ...     print(app.endpoint)
        """

    def ephemeral_ctx_sync(self) -> AbstractContextManager[App]:
        """Keep the app active inside a `with` block and deactivate it at the end.

        Example:
            >>> with app.ephemeral_ctx_sync():      # doctest: +SKIP
            ...     print(app.endpoint)
        """

    @_dual_static
    @staticmethod
    def get(name: str, project: str | None = None, domain: str | None = None) -> App:
        """Return the app of that name.

        Args:
            name: name of the app.
            project: where it is; the configured project when left out.
            domain: where it is; the configured domain when left out.

        Raises:
            flyte.errors.NotFoundError: there is no such app; names one that is spelled alike.
            flyte.errors.UnavailableError: the platform cannot be reached.

        Example:
            >>> App.get("hello").endpoint       # doctest: +SKIP
            'http://localhost:24817'
        """

    @_dual_static
    @staticmethod
    def listall(
        created_by_subject: str | None = None,
        sort_by: tuple[str, Literal["asc", "desc"]] | None = None,
        limit: int = 100,
        in_status: str | tuple[str, ...] | None = None,
        *,
        project: str | None = None,
        domain: str | None = None,
    ) -> list[App]:
        """Return the apps of a project and domain, deactivated ones included.

        Args:
            created_by_subject: only those that this user created.
            sort_by: a field and `"asc"` or `"desc"`. The local platform sorts by `name` (as it does
                when this is left out), `created_at`, `updated_at`, `created_by` and `status_phase`.
            limit: how many at most.
            in_status: only those in this state, or in one of these, such as `"active"`.
            project: the configured project when left out.
            domain: the configured domain when left out.

        Raises:
            ValueError: no such state or order.
            flyte.errors.UnavailableError: the platform cannot be reached.

        Example:
            >>> [app.name for app in App.listall(in_status="active")]       # doctest: +SKIP
            ['hello']
        """

    @_dual_static
    @staticmethod
    def replace(
        name: str,
        updated_app_spec: object,
        reason: str,
        labels: dict[str, str] | None = None,
        project: str | None = None,
        domain: str | None = None,
    ) -> App:
        """Give an app another spec; one that equals the present changes nothing.

        Args:
            name: name of the app.
            updated_app_spec: the whole spec: a dict in the protocol's JSON form, as in
                `app.to_dict()["spec"]`, or a `Spec` message of the package `flyteidl2`.
            reason: recorded by platforms that record reasons.
            labels: instead of the app's labels.
            project: where it is; the configured project when left out.
            domain: where it is; the configured domain when left out.

        Returns:
            The app, which may still be on its way; see `watch`.

        Raises:
            ValueError: that is no spec.
            flyte.errors.NotFoundError: there is no such app.

        Example:
            >>> spec = app.to_dict()["spec"]                        # doctest: +SKIP
            >>> spec["autoscaling"]["replicas"]["max"] = 3          # doctest: +SKIP
            >>> App.replace(app.name, spec, "more traffic")         # doctest: +SKIP
        """

    # What `flyte.remote._app` makes `is_active` and `is_deactivated` of.
    def _probe(self) -> int: ...
    async def _probe_async(self) -> int: ...
    # And of `delete`.
    def _delete(self) -> None: ...
    async def _delete_async(self) -> None: ...

@final
class LogLines:
    """Lines that an app wrote, oldest first; made by `App.logs`, for `for` and for `async for`.

    As the last value of a notebook's cell it is shown line by line.

    Example:
        >>> async for line in app.logs(follow=True):    # doctest: +SKIP
        ...     print(line)
    """

    def __iter__(self) -> Self: ...
    def __next__(self) -> str: ...
    def __aiter__(self) -> Self: ...
    async def __anext__(self) -> str: ...
    def _ipython_display_(self) -> None: ...

@final
class ServeContext:
    """Options of serving, checked once and used for any number of apps, from any thread.

    Made by `flyte.with_servecontext` only.

    Example:
        >>> staging = flyte.with_servecontext(env_vars={"STAGE": "staging"})
        >>> apps = [staging.serve(env) for env in (front, back)]    # doctest: +SKIP
    """

    @_DualMethod
    def serve(self, env: AppEnvironment) -> App:
        """Serve an app under these options and return it when it answers; see `flyte.serve`.

        Args:
            env: the app; all it depends on is served first.

        Returns:
            The app: `app.endpoint` answers requests, `app.url` is its page on the platform.

        Raises:
            TypeError: `env` is no `AppEnvironment`.
            flyte.errors.ConfigError: the declaration or an option cannot be used.
            flyte.errors.BuildError: the code could not be bundled or the image not be built.
            flyte.errors.AppError: the app did not come up; says why, with its last log lines.
            flyte.errors.TimeoutError: the app was not up after `activate_timeout` seconds.
            flyte.errors.UnavailableError: the platform cannot be reached.

        Example:
            >>> app = flyte.with_servecontext(project="demo").serve(env)    # doctest: +SKIP
        """

def with_servecontext(
    mode: Literal["local", "remote"] | None = None,
    *,
    version: str | None = None,
    copy_style: Literal["loaded_modules", "all", "custom", "none"] = "loaded_modules",
    dry_run: bool = False,
    project: str | None = None,
    domain: str | None = None,
    env_vars: dict[str, str] | None = None,
    input_values: dict[str, dict[str, Any]] | None = None,
    parameter_values: dict[str, dict[str, Any]] | None = None,
    cluster_pool: str | None = None,
    cluster: str | None = None,
    log_level: int | str | None = None,
    log_format: Literal["console", "json"] | None = None,
    user_log_level: int | str | None = None,
    interactive_mode: bool | None = None,
    copy_bundle_to: str | PathLike[str] | None = None,
    deactivate_timeout: float | None = None,
    activate_timeout: float | None = None,
    health_check_timeout: float | None = None,
    health_check_interval: float | None = None,
    health_check_path: str | None = None,
    raw_data_path: str | None = None,
    watch: bool = False,
) -> ServeContext:
    """Return a context whose `serve` applies these options; checks them, and asks nobody.

    Args:
        mode: `"local"` for the platform of this machine whatever is configured, `"remote"` to
            insist on a configured endpoint; what is configured when left out.
        version: recorded with the app instead of one derived from its content.
        copy_style: which files become the code bundle: `"loaded_modules"` those that the program
            has imported, `"all"` (or `"custom"`) all below the root folder that no ignore file
            names, `"none"` nothing but what `include` names.
        dry_run: report what would be done and do nothing; the app that is returned serves nothing.
        project: where the app goes, instead of the configured project.
        domain: where the app goes, instead of the configured domain.
        env_vars: environment variables of the app, over those that it declares and over the options
            of logs below; those of apps it depends on stay as declared.
        input_values: old name of `parameter_values`.
        parameter_values: app name to parameter name to value, for the app and for apps it
            depends on: strings, `flyte.io.File`, `flyte.io.Dir` and what `Parameter` takes else.
        cluster_pool: pool of clusters to run on, instead of the declared one.
        cluster: cluster to run on, instead of a pool.
        log_level: level of flyte's own log in the app, as in `logging`; becomes `LOG_LEVEL`.
        log_format: `"console"` or `"json"`; becomes `LOG_FORMAT`.
        user_log_level: level of the app's own log, as in `logging`; becomes `USER_LOG_LEVEL`.
        interactive_mode: send the environment pickled, beside the files of its modules; by default
            only where no file holds all of it, as in a notebook. Counts for apps with a server
            function.
        copy_bundle_to: file, or folder that exists, that gets a copy of the code bundle.
        deactivate_timeout: seconds that `app.deactivate(wait=True)` waits; 60 when left out.
        activate_timeout: seconds that `serve` and `app.activate(wait=True)` wait for the app to
            answer; 600 when left out. An app that ends or cannot start is reported at once.
        health_check_timeout: seconds that one request to `health_check_path` may take; 2 when
            left out.
        health_check_interval: seconds between such requests.
        health_check_path: path that must answer before the app counts as up, such as `"/health"`;
            when left out, the app is up as soon as it listens on its port.
        raw_data_path: folder or object-store prefix where the app may write data; the platform's
            own when left out.
        watch: serve again whenever a bundled file changes: `serve` then returns when Ctrl-C ends
            the watch, and the app goes on. Each change is told on standard error; one that does
            not come up leaves the version before it serving. `serve.aio` ends by being cancelled.

    Returns:
        The context; `context.serve(env)` blocks, `await context.serve.aio(env)` does not.

    Raises:
        ValueError: a word or a number that an option does not take, or `cluster` together with
            `cluster_pool`, or `watch` with `dry_run`.
        TypeError: a value of the wrong type, or `input_values` together with `parameter_values`.

    Example:
        >>> context = flyte.with_servecontext(env_vars={"DEBUG": "1"}, activate_timeout=30)
        >>> app = context.serve(env)    # doctest: +SKIP
        >>> flyte.with_servecontext(watch=True).serve(env)      # doctest: +SKIP
    """

def configure(*, root_dir: str | PathLike[str] | None = None, **settings: object) -> tuple[bool, str]:
    """Remember what `flyte.init` and its kin were given.

    Args:
        root_dir: folder that the names in a code bundle are relative to.
        settings: the arguments of `flyte.init` that are about the control plane, and `config_path`.

    Returns:
        Whether apps will go to the local platform, and a sentence that says where they go.

    Raises:
        flyte.errors.ConfigError: a value, or the configuration file, cannot be used.

    Example:
        >>> local, where = configure(project="demo")    # doctest: +SKIP
    """

def configure_in_cluster(**settings: object) -> tuple[str | None, bool | None]:
    """Use the control plane that runs this container; the arguments are those of `init_in_cluster`.

    A replica of the local platform is left as it is unless something says otherwise.

    Returns:
        Endpoint, and whether it is plain HTTP, where they are known from here.

    Raises:
        flyte.errors.ConfigError: a value that cannot be used.

    Example:
        >>> endpoint, insecure = configure_in_cluster()     # doctest: +SKIP
    """

def act_for_callers() -> None:
    """Let calls to a cluster act for whoever is being answered, and never for this process itself.

    Where this process has credentials of its own, whoever reaches it could use them.

    Raises:
        flyte.errors.ConfigError: the settings cannot be used.

    Example:
        >>> act_for_callers()       # doctest: +SKIP
    """

def current_scope() -> tuple[str, str]:
    """Return the project and the domain that apps go to.

    Raises:
        flyte.errors.ConfigError: the configuration file cannot be used.

    Example:
        >>> project, domain = current_scope()   # doctest: +SKIP
    """

def app_endpoint(name: str) -> str:
    """Return where the app of that name answers, for `AppEnvironment.endpoint`.

    Raises:
        flyte.errors.NotFoundError: there is no such app.
        flyte.errors.UnavailableError: the platform cannot be reached.

    Example:
        >>> app_endpoint("hello")   # doctest: +SKIP
        'http://localhost:24817'
    """

def shutdown() -> None:
    """End the runtime and its threads; called when the interpreter is about to go away.

    Example:
        >>> atexit.register(shutdown)       # doctest: +SKIP
    """

def image_tag(image: object) -> str:
    """Return the tag that an image's content leads to, for `Image.uri`.

    Args:
        image: a `flyte.Image`.

    Raises:
        flyte.errors.Error: the declaration cannot be used, or a file that it names not be read.

    Example:
        >>> len(image_tag(flyte.Image.from_debian_base()))      # doctest: +SKIP
        32
    """

def build_image(image: object, dry_run: bool, force: bool) -> str:
    """Build an image where it is missing and return its URI.

    Args:
        image: a `flyte.Image`, or the URI of one, which is returned as it is.
        dry_run: build nothing.
        force: build even what is there, and resolve versions again.

    Raises:
        flyte.errors.BuildError: the image cannot be built; says why.
        flyte.errors.ConfigError: the declaration cannot be used.

    Example:
        >>> build_image(flyte.Image.from_debian_base(), dry_run=False, force=False)     # doctest: +SKIP
        'env.flyte.local/flyte:...'
    """

async def build_image_async(image: object, dry_run: bool, force: bool) -> str:
    """As `build_image`, without blocking the running event loop."""

def build_images(envs: list[AppEnvironment], copy_style: str) -> dict[str, str]:
    """Build the images of apps, and of those that they depend on, and return the URI of each.

    Args:
        envs: the app environments.
        copy_style: with `"none"` the code becomes part of images that have `with_code_bundle`.

    Raises:
        flyte.errors.BuildError: an image cannot be built; says why.
        flyte.errors.ConfigError: a declaration cannot be used.

    Example:
        >>> build_images([env], "loaded_modules")   # doctest: +SKIP
        {'my-app': 'env.flyte.local/flyte:...'}
    """

async def build_images_async(envs: list[AppEnvironment], copy_style: str) -> dict[str, str]:
    """As `build_images`, without blocking the running event loop."""

def command_line(words: list[str]) -> int:
    """Run one command of the command line `flyte` and return its exit status.

    Args:
        words: the command line, the program's name first.

    Example:
        >>> command_line(["flyte", "get", "app"])   # doctest: +SKIP
        0
    """

def fserve_prepare(argv: list[str]) -> dict[str, Any]:
    """Put code and parameters of a replica in place, and run its command.

    Args:
        argv: what follows `fserve`.

    Returns:
        For a server function, where Python finds it. A command replaces this process instead.

    Raises:
        SystemExit: what the replica needs is missing; standard error says what.

    Example:
        >>> start = fserve_prepare(sys.argv[1:])    # doctest: +SKIP
    """

@final
class StorageReading:
    """A file of a store that is read piece by piece; made by `storage_open`.

    Example:
        >>> storage_open("s3://bucket/model.bin").read(0, 80)    # doctest: +SKIP
    """

    @property
    def size(self) -> int | None:
        """Its size in bytes; `None` where the server cannot send a part of it."""

    def read(self, start: int, count: int) -> bytes:
        """Return at most `count` bytes from `start` on; fewer at the end."""

def storage_fetch(url: str, target: str, is_folder: bool) -> None:
    """Fetch a file or a folder of a store.

    Args:
        url: address of the file, or what the names of the folder's files begin with.
        target: where the file is put, which must not exist; or an empty folder.
        is_folder: whether it is a folder.

    Raises:
        FileNotFoundError: it is not there.
        flyte.errors.Error: it did not arrive whole.

    Example:
        >>> storage_fetch("s3://bucket/model.bin", "/tmp/model.bin", False)  # doctest: +SKIP
    """

def storage_fetch_async(url: str, target: str, is_folder: bool) -> Awaitable[None]:
    """Do what `storage_fetch` does, as an `asyncio` future."""

def storage_list(url: str) -> list[str]:
    """List the files of a folder of a store, sorted.

    Args:
        url: what their names begin with.

    Returns:
        Their paths below it.

    Raises:
        FileNotFoundError: there are none.
        flyte.errors.Error: it cannot be listed.

    Example:
        >>> storage_list("s3://bucket/data")     # doctest: +SKIP
        ['a.csv', 'more/b.csv']
    """

def storage_send(path: str, url: str, is_folder: bool) -> None:
    """Put a file or a folder of this machine into a store, over what is there.

    Args:
        path: the file or the folder.
        url: its address there.
        is_folder: whether it is a folder.

    Raises:
        flyte.errors.Error: it did not arrive; what was there before is still there.

    Example:
        >>> storage_send("/tmp/out.csv", "s3://bucket/out.csv", False)   # doctest: +SKIP
    """

def storage_send_async(path: str, url: str, is_folder: bool) -> Awaitable[None]:
    """Do what `storage_send` does, as an `asyncio` future."""

def storage_open(url: str) -> StorageReading:
    """Open a file of a store to read parts of it.

    Args:
        url: its address.

    Returns:
        What reads it.

    Raises:
        FileNotFoundError: it is not there.
        flyte.errors.Error: it cannot be read.

    Example:
        >>> storage_open("s3://bucket/model.bin").size           # doctest: +SKIP
        4096
    """

def run_platform() -> None:
    """Run the local platform in this process until it is told to end.

    Raises:
        flyte.errors.Error: another process runs it already, or its folder cannot be used.

    Example:
        >>> run_platform()      # doctest: +SKIP
    """
