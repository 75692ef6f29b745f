"""Data files: found where the setting says, downloaded whole and unaltered or not at all."""

import functools
import hashlib
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from maskscope.data.files import Published, located
from maskscope.locate import SETTING, missing

CONTENT = b"all of it" * 1000
MD5 = hashlib.md5(CONTENT, usedforsecurity=False).hexdigest()


class Answer(BaseHTTPRequestHandler):
    """Serves the content whole, or cut short."""

    def do_GET(self):
        if self.path == "/gone.bin":
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(CONTENT)))
        self.end_headers()
        self.wfile.write(CONTENT[:1000] if self.path == "/short.bin" else CONTENT)

    def log_message(self, *_):
        pass


@pytest.fixture
def address(monkeypatch):
    """A server on this machine."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    server = ThreadingHTTPServer(("127.0.0.1", 0), Answer)
    thread = threading.Thread(target=functools.partial(server.serve_forever, poll_interval=0.01))
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """A cache of one's own, and no setting."""
    monkeypatch.delenv(SETTING, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "maskscope" / "data"


def letters(address="file:///nowhere/letters.bin", md5=MD5):
    return Published("letters", ("unpacked", "letters.bin"), address, md5)


def put(root, name, content=b""):
    (root / "letters").mkdir(parents=True, exist_ok=True)
    (root / "letters" / name).write_bytes(content)
    return root / "letters" / name


def test_an_argument_comes_before_the_setting_and_the_setting_before_the_cache(tmp_path, cache, monkeypatch):
    in_cache, in_setting, in_argument = (put(root, "letters.bin") for root in (cache, tmp_path / "s", tmp_path / "a"))
    assert located(letters()) == in_cache
    monkeypatch.setenv(SETTING, str(tmp_path / "s"))
    assert located(letters()) == in_setting
    assert located(letters(), tmp_path / "a") == in_argument


def test_what_was_unpacked_comes_before_the_archive(tmp_path):
    put(tmp_path, "letters.bin")
    unpacked = put(tmp_path, "unpacked")
    assert located(letters(), tmp_path) == unpacked


def test_a_file_that_is_there_is_taken_as_it_is(tmp_path):
    """Checksums guard downloads only: subsets are welcome."""
    path = put(tmp_path, "letters.bin", b"a part of it")
    assert located(letters(), tmp_path).read_bytes() == path.read_bytes()


def test_the_home_folder_may_be_written_as_a_tilde(tmp_path, cache, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv(SETTING, "~/here")
    path = put(tmp_path / "here", "letters.bin")
    assert located(letters()) == path


def test_a_download_lands_in_the_cache_and_is_not_repeated(address, cache):
    path = located(letters(f"{address}/letters.bin"))
    assert path == cache / "letters" / "letters.bin"
    assert path.read_bytes() == CONTENT
    assert located(letters()) == path  # an address that nothing lies at


def test_a_file_address_serves_too(tmp_path, cache):
    source = put(tmp_path, "letters.bin", CONTENT)
    assert located(letters(source.as_uri())).read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("name", "md5", "message"),
    [
        ("short.bin", MD5, r"cut short: 1,000 of 9,000 bytes came"),
        ("letters.bin", "0" * 32, rf"another file.*md5 {MD5} of 9,000 bytes, expected 0{{32}}"),
        ("gone.bin", MD5, r"could not be downloaded \(HTTP Error 404"),
    ],
)
def test_a_download_that_is_not_the_published_file_leaves_nothing_and_says_what_to_do(
    address, cache, name, md5, message
):
    with pytest.raises(ConnectionError, match=message) as raised:
        located(letters(f"{address}/{name}", md5))
    assert f"put it into {cache / 'letters'}" in str(raised.value)
    assert list((cache / "letters").iterdir()) == []


def test_an_unreachable_address_is_reported(address, cache):
    port = int(address.rpartition(":")[2])
    with ThreadingHTTPServer(("127.0.0.1", 0), Answer) as other:
        closed = other.server_port
    assert closed != port
    with pytest.raises(ConnectionError, match="could not be downloaded"):
        located(letters(f"http://127.0.0.1:{closed}/letters.bin"))
    assert list((cache / "letters").iterdir()) == []


def test_nothing_is_downloaded_where_it_is_not_wanted(address, cache, tmp_path, monkeypatch):
    file = letters(f"{address}/letters.bin")
    with pytest.raises(FileNotFoundError, match=f"no file unpacked or letters.bin in {cache}/letters: get it from"):
        located(file, download=False)
    with pytest.raises(FileNotFoundError, match=f"in {tmp_path}/a/letters"):
        located(file, tmp_path / "a")
    monkeypatch.setenv(SETTING, str(tmp_path / "s"))
    with pytest.raises(FileNotFoundError, match=f"in {tmp_path}/s/letters"):
        located(file)
    assert not cache.exists()


@pytest.mark.parametrize(
    ("value", "state"), [(None, "is not set"), ("/nowhere", "is /nowhere, a folder that does not exist")]
)
def test_the_message_says_what_the_setting_is(monkeypatch, value, state):
    monkeypatch.delenv(SETTING, raising=False)
    if value:
        monkeypatch.setenv(SETTING, value)
    message = str(missing("letters", ("a",), "from somewhere"))
    assert f"let --data-dir or {SETTING} (which {state}) name the folder that letters/ is in" in message
