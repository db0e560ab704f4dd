"""The module that applications written for uWSGI import: names, arguments, returns and errors of uWSGI 2.0 on Python 3.

`import uwsgi` gives it inside a worker; `docs/from-uwsgi.md` says what is different and what is left out.
Strings come back as bytes, what is absent is None, a bad value is a ValueError, failed input or output an OSError.
"""
