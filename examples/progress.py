"""Jobs that tell how far they are: started in one worker, watched from any.

channels examples.progress:app --workers 4
"""

import json
import random
import uuid

import gevent
from flask import Flask, jsonify, render_template

import channels
from channels.flask import Channels

JOBS_REMEMBERED = 20
STEPS = ("reading", "sorting", "counting", "writing")

app = Flask(__name__)
ch = Channels(app)
jobs = {}  # what this worker has heard: job id -> its last state; the oldest first


@ch.background
def listen():
    """Every worker follows all jobs, so that any of them can tell a page that has just been opened."""
    for message in channels.subscribe("job:*"):
        state = json.loads(message.data)
        jobs[state["id"]] = state
        while len(jobs) > JOBS_REMEMBERED:
            del jobs[next(iter(jobs))]


def work(job, seconds):
    """A job that only waits; a real one would compute in a thread or a process of its own."""
    for percent in range(101):
        step = STEPS[min(percent * len(STEPS) // 100, len(STEPS) - 1)] if percent < 100 else "done"
        state = {"id": job, "percent": percent, "step": step, "worker": channels.worker_id()}
        ch.publish(f"job:{job}", state, event="progress")
        gevent.sleep(seconds / 100)


@app.get("/")
def page():
    return render_template("progress.html")


@app.get("/jobs")
def snapshot():
    return jsonify(list(jobs.values()))


@app.post("/jobs")
def start():
    job = uuid.uuid4().hex[:8]
    gevent.spawn(work, job, random.uniform(2, 6))
    return jsonify(id=job), 202


@app.get("/events")
def events():
    return ch.sse(prefixes=("job:",))
