"""APScheduler in an application: it looks whether uWSGI runs with threads."""

import uwsgi  # type: ignore[import-not-found]
from apscheduler.schedulers.background import BackgroundScheduler

ran = []
scheduler = BackgroundScheduler()
scheduler.add_job(lambda: ran.append(uwsgi.worker_id()), "interval", seconds=0.1)
scheduler.start()


def application(env, start_response):  # type: ignore[no-untyped-def]
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [str(len(ran)).encode()]
