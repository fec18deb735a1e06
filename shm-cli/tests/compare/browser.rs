//! The page in a real browser, where there is one.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::support::*;

/// What a page may be shown in, in points.
const WIDTHS: [u32; 3] = [320, 360, 1280];

/// A page around the page, which measures it: the page itself runs no script.
fn harness(page: &str) -> String {
    let escaped = page.replace('&', "&amp;").replace('"', "&quot;");
    let frames = WIDTHS.map(|width| {
        format!(
            "<iframe srcdoc=\"{escaped}\" width={width} height=700 \
             frameborder=0></iframe>"
        )
    });
    let script = "onload = () => {
        const found = [...document.querySelectorAll('iframe')].map(frame => {
            const page = frame.contentDocument;
            const letters = [...page.querySelectorAll('svg text')]
                .map(text => text.getBoundingClientRect().height)
                .filter(height => height > 0);
            return [
                page.documentElement.scrollWidth <= frame.clientWidth,
                letters.length > 0 && Math.min(...letters) >= 11,
                getComputedStyle(page.body).margin == '0px',
            ].join();
        });
        document.body.innerHTML = '<p id=found>' + found.join(' ') + '</p>';
    };";
    format!(
        "<!DOCTYPE html><title>harness</title><script>{script}</script>\
         <body>{}</body>",
        frames.concat()
    )
}

fn browser() -> Option<&'static str> {
    ["chromium", "chromium-browser", "google-chrome"].into_iter().find(
        |program| {
            let version = Command::new(program).arg("--version").output();
            version.is_ok_and(|output| output.status.success())
        },
    )
}

#[test]
fn a_browser_shows_the_page_without_a_complaint_and_within_its_width() {
    let Some(browser) = browser() else {
        eprintln!("left out: needs chromium");
        return;
    };
    let directory = Directory::new();
    let file = directory.path().join("page.html");
    let mut command = compare(["--size=64KiB", "--rounds=1000"]);
    command.args(["--up-to=256KiB", "--html"]).arg(&file);
    assert!(output(&mut command).status.success());
    let page = fs::read_to_string(&file).unwrap();
    let fits = "true,true,true ".repeat(WIDTHS.len());
    let (found, complaints) = shown_in(browser, &directory, &harness(&page));
    assert_eq!(found, fits.trim_end());
    assert_eq!(complaints, "");

    // That it would complain, and that nothing is loaded: a page that tries.
    let hostile = page.replace(
        "</main>",
        "<img src=\"data:image/gif;base64,R0lGODlhAQABAAAAACw=\"></main>",
    );
    let (_, complaints) = shown_in(browser, &directory, &harness(&hostile));
    assert!(complaints.contains("Content Security Policy"), "{complaints}");
}

/// What the harness found, and what the browser complained about.
fn shown_in(
    browser: &str,
    directory: &Directory,
    harness: &str,
) -> (String, String) {
    let file = directory.file("harness.html", harness.as_bytes());
    let profile = directory.path().join("profile");
    let mut command = Command::new(browser);
    command.args(["--headless", "--no-sandbox", "--disable-gpu", "--dump-dom"]);
    command.args(["--enable-logging=stderr", "--virtual-time-budget=5000"]);
    command.arg(user_data(&profile)).arg(&file);
    command.stdin(std::process::Stdio::null());
    command.stdout(std::process::Stdio::piped());
    command.stderr(std::process::Stdio::piped());
    let output = output(&mut command);
    let dom = String::from_utf8(output.stdout).unwrap();
    let found = dom.split("<p id=\"found\">").nth(1).unwrap_or(&dom);
    let found = found.split("</p>").next().unwrap_or_default().to_owned();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let complaints = said.lines().filter(|line| line.contains("CONSOLE"));
    (found, complaints.collect())
}

fn user_data(profile: &Path) -> String {
    format!("--user-data-dir={}", profile.display())
}
