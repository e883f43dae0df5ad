"""The process of the program: defines what the program defines, and calls it when the process of the tests asks.

Follows the text of `values`. Standard input: the program. Argument: the descriptor of the socket. It never sees a test.
"""
# ruff: noqa: F821  names of `values`, whose text stands before this one


def work():
    import copy
    import os
    import socket
    import types

    text, descriptor = sys.stdin.read(), int(sys.argv[1])
    quiet = os.open(os.devnull, os.O_RDWR)
    for standard in (0, 1, 2):
        os.dup2(quiet, standard)
    channel, objects = Channel(socket.socket(fileno=descriptor)), []

    def refer(value):
        objects.append(value)
        return len(objects) - 1

    def failure(error):
        kind = next(k.__name__ for k in type(error).__mro__ if k.__module__ == "builtins")
        return {"error": [kind, f"{type(error).__name__}: {error}"[:2000]]}

    module = types.ModuleType("program")
    sys.modules["program"] = module
    try:
        exec(compile(text, "program.py", "exec"), module.__dict__)
        channel.send({"names": [name for name, value in module.__dict__.items() if callable(value)]})
    except BaseException as error:
        channel.send(failure(error))
        return

    def answer(request):
        if request["on"] is None:
            target = module.__dict__[request["name"]]
        else:
            target = objects[request["on"]]
            if request["name"]:
                target = getattr(target, request["name"])
        if not request["call"]:
            return {"value": encode(target, refer)}
        arguments = [decode(each, objects.__getitem__) for each in request["arguments"]]
        keywords = {name: decode(each, objects.__getitem__) for name, each in request["keywords"].items()}
        changeable = [n for n, each in enumerate(arguments) if isinstance(each, (list, dict, set))]
        before = {n: copy.copy(request["arguments"][n]) for n in changeable}
        value = encode(target(*arguments, **keywords), refer)
        after = {n: encode(arguments[n], refer) for n in changeable}
        return {"value": value, "changed": {n: each for n, each in after.items() if each != before[n]}}

    while (request := channel.receive()) is not None:
        try:
            reply = answer(request)
        except BaseException as error:
            reply = failure(error)
        channel.send(reply)


work()
