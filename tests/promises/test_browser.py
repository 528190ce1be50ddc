"""Sign-in with a real browser: headless Chromium, driven by Selenium."""

from __future__ import annotations

import shlex
import sys
import threading

import pytest
import requests
from programs import find
from signing_in import (
    PATIENCE,
    Terminal,
    answer,
    home,  # noqa: F401 (a fixture)
    one_line,
    run,
    set_up,
)
from wire import until

from requests_silent_refresh import SessionExpired, profiles
from requests_silent_refresh.cli import exits
from requests_silent_refresh.testing import AuthorizationServer

pytestmark = pytest.mark.usefixtures("home")


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    """Start one browser for all tests, with a profile of its own."""
    chromium, driver = find("chromium"), find("chromedriver")
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for argument in (
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-quic",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        f"--user-data-dir={tmp_path_factory.mktemp('chromium')}",
    ):
        options.add_argument(argument)
    driver = webdriver.Chrome(options=options, service=Service(driver))
    driver.set_page_load_timeout(PATIENCE)
    yield driver
    driver.quit()


@pytest.fixture
def server():
    with AuthorizationServer(access_token_lifetime=3600) as server:
        yield server


def press(browser, button, **fields):
    """Fill in the page's form and press a button, as a user does."""
    from selenium.webdriver.common.by import By

    for name, value in fields.items():
        browser.find_element(By.NAME, name).send_keys(value)
    browser.find_element(By.CSS_SELECTOR, f"button[value={button}]").click()


def title(browser):
    from selenium.webdriver.support.ui import WebDriverWait

    WebDriverWait(browser, PATIENCE).until(lambda b: b.title and b.title != "Sign in")
    return browser.title


def test_from_the_login_page_to_a_script_that_survives_ten_expiries(browser, server):
    """Sign-in in a browser, ten expiries, sign-out; the error then says what to type."""
    terminal = Terminal("sign-in", "work", *set_up(server), "--scope", "openid read")
    browser.get(terminal.find(r"http\S+/authorize\S+"))
    assert "openid read" in browser.page_source
    press(browser, "allow", username="ann@example.com")
    assert title(browser) == "Signed in"
    assert "close this page" in browser.page_source
    done = terminal.finish()
    assert (done.code, done.err) == (0, "")
    assert "Signed in to work as ann@example.com." in done.out

    with requests.Session() as session:
        profiles.load("work").mount_on(session)
        for _ in range(10):
            server.revoke_access_tokens()
            assert session.get(server.resource).status_code == 200
        assert server.counters.granted == 10
        assert server.counters.reuse_detections == 0
        assert "ann@example.com" in run("status").out
        assert run("sign-out", "work").code == 0
        with pytest.raises(SessionExpired, match=r"run silent-refresh sign-in work$"):
            session.get(server.resource)


def test_the_last_page_sends_no_referer(browser, server):
    """P12: leaving the last page sends no Referer, because its URL contains the code."""
    from selenium.webdriver.support.ui import WebDriverWait

    terminal = Terminal("sign-in", "work", *set_up(server))
    browser.get(terminal.find(r"http\S+/authorize\S+"))
    press(browser, "allow", username="ann")
    assert title(browser) == "Signed in"
    terminal.finish()
    browser.execute_script("location.href = arguments[0]", server.url + "/open")
    server.wait_for(lambda: server.log.of("open"))
    WebDriverWait(browser, PATIENCE).until(lambda b: b.current_url == server.url + "/open")
    assert '"user-agent"' in browser.page_source
    assert '"referer"' not in browser.page_source


def test_a_denial_is_reported_in_both_places(browser, server):
    """A denial shows a page in the browser and a line in the terminal, and stores nothing."""
    terminal = Terminal("sign-in", "work", *set_up(server))
    browser.get(terminal.find(r"http\S+/authorize\S+"))
    press(browser, "deny")
    assert title(browser) == "Not signed in"
    done = terminal.finish()
    assert done.code == exits.NOT_COMPLETED
    assert "denied in the browser" in one_line(done)
    assert profiles.listed() == []


def test_an_older_tab_is_told_that_it_is_outdated(browser, server):
    """A second consent in another window shows that the sign-in was already answered."""
    gate = server.token_gate()
    terminal = Terminal("sign-in", "work", *set_up(server))
    url = terminal.find(r"http\S+/authorize\S+")
    elsewhere = threading.Thread(target=answer, args=(url, "allow", "ann"))
    elsewhere.start()
    assert gate.arrived.wait(PATIENCE)
    browser.get(url)
    press(browser, "allow", username="bob")
    assert title(browser) == "This sign-in has already been answered"
    gate.release()
    elsewhere.join()
    done = terminal.finish()
    assert done.code == 0, done
    assert server.counters.sign_ins == 1


def test_a_device_is_allowed_on_its_page(browser, server):
    """RFC 8628: the page has the code filled in, and allowing it signs the device in."""
    server.authorizations.device_interval = 0.2
    terminal = Terminal("sign-in", "work", "--device", *set_up(server))
    browser.get(terminal.find(r"http\S+/device\?user_code=\S+"))
    press(browser, "allow", username="ann")
    assert title(browser) == "Done"
    assert terminal.finish().code == 0
    assert profiles.load("work").manager.signed_in


def test_the_command_opens_the_browser(browser, server, tmp_path):
    """The command passes the URL to $BROWSER; here that forwards it to the running browser."""
    handed, opener = tmp_path / "url", tmp_path / "opener"
    opener.write_text(
        f"#!{sys.executable}\nimport os, sys\n"
        f"open({f'{handed}.new'!r}, 'w').write(sys.argv[1])\n"
        f"os.replace({f'{handed}.new'!r}, {str(handed)!r})\n"
    )
    opener.chmod(0o700)
    command = f"{shlex.quote(str(opener))} %s"
    terminal = Terminal("sign-in", "work", *set_up(server), BROWSER=command)
    until(handed.exists, PATIENCE)
    browser.get(handed.read_text())
    press(browser, "allow", username="ann")
    assert title(browser) == "Signed in"
    assert terminal.finish().code == 0
