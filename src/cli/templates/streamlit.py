"""A Streamlit page. `flyte serve` serves it, `flyte serve --watch` again after each change.

This file is both: what declares the app, and, with `--page`, the page that streamlit runs.
"""

import sys

import flyte
import flyte.app

env = flyte.app.AppEnvironment(
    name="APP_NAME",
    type="Streamlit",
    # What the app needs; it is installed there, not here.
    image=flyte.Image.from_debian_base().with_pip_packages("streamlit"),
    args="streamlit run app.py --server.port 8080 --server.headless true -- --page",
)


def page():
    import streamlit

    name = streamlit.text_input("Your name", "world")
    streamlit.title(f"Hello, {name}")


if __name__ == "__main__":
    if "--page" in sys.argv:
        page()
    else:
        print(flyte.serve(env).endpoint)
