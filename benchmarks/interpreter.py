"""Triton's interpreter without what it does for nothing, which is 60 % of its time on these kernels."""

import dataclasses

from triton.runtime import interpreter


def leave_out_idle_work() -> None:
    """For the rest of this process, which must interpret (TRITON_INTERPRET=1); no result and no check changes.

    Every integer operation is repeated in int64 for a check against overflow that is then not made, since only
    `debug=True` lets it. And every call of a device function, be it `tl.zeros`, replaces Triton's language in the
    function's module by the interpreted one: once a launch is enough.
    """
    builder = interpreter.interpreter_builder
    assert not builder.options.debug, "with debug the check against overflow is made"
    builder.options = dataclasses.replace(builder.options, sanitize_overflow=False)
    replace_language, execute = interpreter._patch_lang, interpreter.GridExecutor.__call__
    replaced: set[int] = set()

    def replace_once(function):
        module = id(function.__globals__)
        if module in replaced:
            return None
        replaced.add(module)
        return replace_language(function)

    def launch(self, *arguments, **options):
        replaced.clear()
        return execute(self, *arguments, **options)

    interpreter._patch_lang = replace_once
    interpreter.GridExecutor.__call__ = launch
