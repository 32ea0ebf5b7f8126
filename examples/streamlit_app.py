"""Streamlit: a page, and the environment that runs it. Streamlit is needed in the image alone.

This file is both: what declares the app, and, with `--page`, the page that streamlit runs.

Run it with `python examples/streamlit_app.py`.
"""

import sys

import flyte
from flyte.app.extras import StreamlitAppEnvironment

env = StreamlitAppEnvironment(
    name="streamlit-app",
    script="streamlit_app.py",
    script_args=["--page"],
    image=flyte.Image.from_debian_base().with_pip_packages("streamlit"),
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
