"""Everything that users see is described, and what they call or make is shown in an example."""

import inspect
from types import ModuleType

import pytest

import remora
import remora.actor
import remora.exceptions
import remora.util
import remora.util.queue
import remora.util.scheduling_strategies
from remora.api.actor_class import ActorClass
from remora.api.actors import ActorHandle, ActorMethod
from remora.api.init import SessionContext
from remora.api.remote_function import RemoteFunction
from remora.api.runtime_context import RuntimeContext
from remora.base.object_ref import ObjectRef
from remora.util.actor_pool import ActorPool
from remora.util.queue import Queue

MODULES = (remora, remora.actor, remora.exceptions, remora.util, remora.util.scheduling_strategies)
STRATEGIES = remora.util.scheduling_strategies
CLASSES = (
    ActorClass,
    ActorHandle,
    ActorMethod,
    ActorPool,
    ObjectRef,
    Queue,
    RemoteFunction,
    RuntimeContext,
    SessionContext,
    *(getattr(STRATEGIES, name) for name in STRATEGIES.__all__),
)
PUBLIC = {f"{module.__name__}.{name}": getattr(module, name) for module in MODULES for name in module.__all__}
DESCRIBED = {name: item for name, item in PUBLIC.items() if not isinstance(item, str)}
FUNCTIONS = {
    name: item
    for name, item in PUBLIC.items()
    if inspect.isfunction(item) and not name.startswith("remora.exceptions.")  # words for errors, not for users
}
METHODS = {
    f"{cls.__name__}.{name}": item
    for cls in CLASSES
    for name, item in vars(cls).items()
    if not name.startswith("_") and (inspect.isfunction(item) or isinstance(item, property))
}


VARIADIC = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


def parameters_of(function):
    parameters = inspect.signature(function).parameters.values()
    return [one.name for one in parameters if not one.name.startswith("_") and one.kind not in VARIADIC]


@pytest.mark.parametrize("name", DESCRIBED)
def test_a_public_name_has_a_docstring_of_its_own(name):
    item = DESCRIBED[name]
    text = item.__doc__ if isinstance(item, ModuleType | type) else inspect.getdoc(item)
    assert text, f"{name} has no docstring"


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_function_that_users_call_has_an_example(name):
    assert "Example:" in inspect.getdoc(FUNCTIONS[name])


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_a_class_that_users_meet_has_an_example(cls):
    assert "Example:" in inspect.cleandoc(cls.__doc__)


@pytest.mark.parametrize("name", METHODS)
def test_a_public_method_has_a_docstring(name):
    assert inspect.getdoc(METHODS[name])


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_function_describes_every_parameter(name):
    text = inspect.getdoc(FUNCTIONS[name])
    missing = [parameter for parameter in parameters_of(FUNCTIONS[name]) if parameter not in text]
    assert not missing


@pytest.mark.parametrize("name", FUNCTIONS)
def test_an_example_is_python(name):
    _, _, example = inspect.getdoc(FUNCTIONS[name]).partition("Example:")
    lines = [line.strip()[4:] for line in example.splitlines() if line.strip().startswith((">>>", "..."))]
    assert lines
    compile("\n".join(lines), name, "exec")


def test_every_public_name_of_the_package_is_found_by_dir():
    assert set(remora.__all__) <= set(dir(remora))
