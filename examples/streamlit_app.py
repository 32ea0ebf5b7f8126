"""Streamlit: an app that is a command. Nothing but flyte is needed on the client.

`args` runs inside the image, so streamlit is installed there alone. This file is both: what
declares the app, and, with `--page`, the page that streamlit runs.

Run it with `python examples/streamlit_app.py`.
"""

import sys

import flyte
import flyte.app

env = flyte.app.AppEnvironment(
    name="streamlit-app",
    type="Streamlit",
    port=8080,
    image=flyte.Image.from_debian_base().with_pip_packages("streamlit"),
    args="streamlit run streamlit_app.py --server.port 8080 --server.headless true -- --page",
)


def page():
    import streamlit

    streamlit.title("Hello from Streamlit")
    number = streamlit.slider("Number", 0, 10, 3)
    streamlit.write(f"{number} squared is {number * number}")


if __name__ == "__main__":
    if "--page" in sys.argv:
        page()
    else:
        app = flyte.serve(env)
        print(app.endpoint)
