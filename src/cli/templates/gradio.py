"""A Gradio demo. `flyte serve` serves it, `flyte serve --watch` again after each change."""

import flyte
import flyte.app

env = flyte.app.AppEnvironment(
    name="APP_NAME",
    type="Gradio",
    # What the app needs; it is installed there, not here.
    image=flyte.Image.from_debian_base().with_pip_packages("gradio"),
)


def hello(name):
    return f"Hello, {name or 'world'}"


@env.server
def serve():
    import gradio

    demo = gradio.Interface(fn=hello, inputs="text", outputs="text", title="APP_NAME")
    demo.launch(server_name="0.0.0.0", server_port=env.get_port().port)


if __name__ == "__main__":
    print(flyte.serve(env).endpoint)
