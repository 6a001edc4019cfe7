"""From what a person types to apps, services and instances: `shop`, `shop/api`, `api` and `shop-api-1` all resolve.

Pure functions over the apps that the agent listed. Where a name could mean two things, the error says both.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from whit.base.errors import Conflict, InputError, NotFound

_REACHABLE = ("running", "frozen", "created", "stopped", "snapshot")

if TYPE_CHECKING:
    from whit.model.instance import InstanceStatus
    from whit.model.status import AppStatus


@dataclass(frozen=True)
class Selection:
    """An app, and the services or instances of it that were named; none means all."""

    app: str
    members: tuple[str, ...] = ()


@dataclass(frozen=True)
class Member:
    """A service of an app, or one of its instances."""

    app: str
    service: str
    instance: str = ""

    @property
    def name(self) -> str:
        return self.instance or self.service


def choose_app(apps: Sequence[AppStatus], default: str) -> str:
    """The app that is meant when none is named: the one of the app file at hand, else the only one there is.

    Raises:
        NotFound: the app file's app is not up, or no app is.
        InputError: there are several apps.
    """
    if default:
        return require_app(default, apps)
    if not apps:
        raise NotFound("no app is up", hint="`whit up` in the directory of an app file starts one")
    if len(apps) > 1:
        raise InputError("there are several apps", hint=f"name one of them: {_listed(app.name for app in apps)}")
    return apps[0].name


def require_app(name: str, apps: Sequence[AppStatus]) -> str:
    """The name, if such an app is up."""
    if any(app.name == name for app in apps):
        return name
    known = f"these are up: {_listed(app.name for app in apps)}" if apps else "`whit up` starts it"
    raise NotFound(f"the app {name} is not up", hint=known)


def select(names: Sequence[str], apps: Sequence[AppStatus], default: str) -> Selection:
    """What `[APP] [SERVICE…]` means. An app's name counts as such in the first place only."""
    if not names:
        return Selection(choose_app(apps, default))
    if any(app.name == names[0] for app in apps):
        members = [find_member(name, apps, names[0], within=True) for name in names[1:]]
        return Selection(names[0], tuple(member.name for member in members))
    members = [find_member(name, apps, default) for name in names]
    if len(owners := sorted({member.app for member in members})) > 1:
        raise InputError(f"these belong to different apps: {', '.join(owners)}", hint="name services of one app")
    return Selection(members[0].app, tuple(member.name for member in members))


def find_member(name: str, apps: Sequence[AppStatus], default: str, *, within: bool = False) -> Member:
    """The service or instance called `name`, in the app `default` first; with `within`, only there.

    Raises:
        InputError: several apps have such a service.
        NotFound: none has.
    """
    found = [member for app in apps for member in _members(app) if _matches(name, member)]
    preferred = [member for member in found if member.app == default]
    if preferred or within:
        found = preferred
    if not found:
        searched = [app for app in apps if app.name == default] if within else apps
        raise NotFound(f"no service or instance is called {name}", hint=_known(searched))
    if len(found) > 1:
        meant = ", ".join(f"{member.app}/{member.service}" for member in found)
        raise InputError(f"several apps have a service {name}", hint=f"name one of {meant}")
    return found[0]


def find_instance(name: str, apps: Sequence[AppStatus], default: str) -> InstanceStatus:
    """The instance called so, or the first running instance of the service called so."""
    member = find_member(name, apps, default)
    instances = [one for app in apps if app.name == member.app for one in app.instances]
    if member.instance:
        return next(one for one in instances if one.name == member.instance)
    running = [one for one in instances if one.service == member.service and one.state in _REACHABLE]
    if not running:
        raise Conflict(f"no instance of {member.app}/{member.service} runs", hint="`whit ps` shows why")
    return min(running, key=lambda one: (len(one.name), one.name))


def peer(name: str, apps: Sequence[AppStatus], default: str) -> str:
    """A party of a flow: a service becomes app/service; addresses, `world` and the like stay as they are."""
    try:
        member = find_member(name, apps, default)
    except NotFound:
        return name
    return member.instance or f"{member.app}/{member.service}"


def _members(app: AppStatus) -> list[Member]:
    services = [Member(app.name, service.name) for service in app.services]
    return services + [Member(app.name, one.service, one.name) for one in app.instances]


def _matches(name: str, member: Member) -> bool:
    return name in (member.name, f"{member.app}/{member.name}")


def _known(apps: Sequence[AppStatus]) -> str:
    services = [f"{app.name}/{service.name}" for app in apps for service in app.services]
    return f"there are {_listed(services)}" if services else "no app is up"


def _listed(names: Iterable[str]) -> str:
    return ", ".join(sorted(names))
