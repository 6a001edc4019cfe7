"""A page from a template, a JSON answer, and a route that fails: what a trace of the first page would miss."""

import flask

app = flask.Flask(__name__)


@app.get("/")
def page() -> str:
    return flask.render_template("hello.html", greeting="hello")


@app.get("/json")
def answer() -> flask.Response:
    return flask.jsonify(answer=42)


@app.get("/fail")
def fail() -> str:
    raise RuntimeError("on purpose")
