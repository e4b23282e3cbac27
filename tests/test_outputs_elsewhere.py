"""papermill keeps an executed notebook in an object store or behind an address, as the README says; the run stays here.

A stand-in for S3 (moto) and a small web server run in this process: no network is needed.
"""

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import nbformat
import papermill
import pytest
from papermill.exceptions import PapermillExecutionError


@pytest.fixture
def execute(tmp_path):
    """A function that executes a notebook, which writes a file named as its run, and fails when its seed is 7."""
    cell = 'import pathlib\npathlib.Path(run_name).write_text("a run")\nassert seed < 7, "as asked"'
    parameters = nbformat.v4.new_code_cell('run_name: str = "x"\nseed: int = 0', metadata={"tags": ["parameters"]})
    notebook = nbformat.v4.new_notebook(cells=[parameters, nbformat.v4.new_code_cell(cell)])
    notebook.metadata.kernelspec = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(notebook, tmp_path / "source.ipynb")

    def run(target, source=tmp_path / "source.ipynb", **values):
        papermill.execute_notebook(source, target, values, cwd=tmp_path, progress_bar=False)

    return run


def seeds_in(notebook):
    (injected,) = [cell for cell in notebook.cells if "injected-parameters" in cell.metadata.get("tags", [])]
    return injected.source


@pytest.fixture(scope="module")  # papermill keeps its first connection
def bucket():
    boto3 = pytest.importorskip("boto3", reason="needs boto3, of papermill[s3]: requirements-dev.txt")
    moto = pytest.importorskip("moto.server", reason="needs moto: requirements-dev.txt")
    server = moto.ThreadedMotoServer("127.0.0.1", 0)
    server.start()
    host, port = server.get_host_and_port()
    values = {"AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "x", "AWS_DEFAULT_REGION": "us-east-1"}
    values |= {"BOTO3_ENDPOINT_URL": f"http://{host}:{port}", "AWS_ENDPOINT_URL": f"http://{host}:{port}"}
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("AWS_PROFILE", raising=False)
        for name, value in values.items():
            patch.setenv(name, value)
        boto3.client("s3").create_bucket(Bucket="class")
        yield "s3://class"
    server.stop()


def test_s3_source_and_target(execute, bucket, tmp_path):
    stored, again = f"{bucket}/week-1/out.ipynb", f"{bucket}/week-1/again.ipynb"
    execute(stored, run_name="here", seed=1)
    assert "seed = 1" in seeds_in(papermill.iorw.load_notebook_node(stored))
    assert (tmp_path / "here").read_text(encoding="utf-8") == "a run"
    execute(again, source=stored, seed=2)
    assert "seed = 2" in seeds_in(papermill.iorw.load_notebook_node(again))


def test_s3_failed_notebook(execute, bucket):
    """It is kept with its error."""
    stored = f"{bucket}/failed.ipynb"
    with pytest.raises(PapermillExecutionError, match="as asked"):
        execute(stored, seed=7)
    outputs = [output for cell in papermill.iorw.load_notebook_node(stored).cells for output in cell.get("outputs", [])]
    assert any(output.output_type == "error" and "as asked" in output.evalue for output in outputs)


def test_web_address(execute):
    kept = {}

    class Store(BaseHTTPRequestHandler):
        def do_PUT(self):
            kept[self.path] = self.rfile.read(int(self.headers["Content-Length"])).decode()
            self.send_response(201)
            self.end_headers()

        def log_message(self, *words):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Store)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        execute(f"http://127.0.0.1:{server.server_port}/out.ipynb", seed=3)
    finally:
        server.shutdown()
        server.server_close()
    assert "seed = 3" in seeds_in(nbformat.reads(kept["/out.ipynb"], as_version=4))
