//! The page of `shm compare --html`, as a browser reads it.

use std::collections::HashSet;
use std::fs::{self, File};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, Output};

use integration_tests::alone::alone_as_root;
use integration_tests::surroundings::small_dev_shm;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::signal::Signal;
use nix::sys::stat::Mode;
use scraper::{ElementRef, Html, Selector};
use serde_json::Value;

use crate::bench::sizes;
use crate::support::*;

const SMALL: [&str; 3] = ["--size=64KiB", "--up-to=64KiB", "--rounds=1000"];

fn with_page(file: &Path) -> Command {
    let mut command = compare(SMALL);
    command.arg("--html").arg(file);
    command
}

fn parse(page: &str) -> Html {
    let page = Html::parse_document(page);
    assert!(page.errors.is_empty(), "{:?}", page.errors);
    page
}

fn all<'a>(page: &'a Html, selector: &str) -> Vec<ElementRef<'a>> {
    let selector = Selector::parse(selector).unwrap();
    page.select(&selector).collect()
}

fn text(element: ElementRef<'_>) -> String {
    let text: String = element.text().collect();
    text.trim().to_owned()
}

/// The rows of a table, each with its name and its cells, one for each
/// mechanism.
fn rows<'a>(
    page: &'a Html,
    table: &str,
) -> Vec<(String, Vec<(String, ElementRef<'a>)>)> {
    let names = all(page, &format!("{table} thead th"));
    let mut names: Vec<String> = names.into_iter().map(text).collect();
    let mechanisms = names.split_off(names.len() - 4);
    assert_eq!(mechanisms, ["sysv", "posix", "memfd", "dmabuf"]);
    let cells = Selector::parse("th, td").unwrap();
    let row = |row: ElementRef<'a>| {
        let mut cells = row.select(&cells);
        let name = text(cells.next().unwrap());
        let cells = mechanisms.iter().cloned().zip(cells).collect();
        (name, cells)
    };
    all(page, &format!("{table} tbody tr")).into_iter().map(row).collect()
}

/// The exact number that a cell stands for is that of the JSON; or both have
/// none.
fn assert_equal(cell: ElementRef<'_>, expected: &Value, what: &str) {
    let data = Selector::parse("data").unwrap();
    let Some(data) = cell.select(&data).next() else {
        assert_eq!(expected, &Value::Null, "{what}");
        return;
    };
    assert!(!text(data).is_empty(), "{what}");
    // Both read by the same rules, which round the last digit.
    let value = serde_json::from_str::<Value>(data.attr("value").unwrap());
    assert_eq!(&value.unwrap(), expected, "{what}");
}

#[test]
fn the_page_has_the_numbers_of_the_same_runs_json() {
    let directory = Directory::new();
    let file = directory.path().join("page.html");
    let output = output(with_page(&file).arg("--json"));
    assert_all_verified(&output);
    let report = json(&output);
    let page = parse(&fs::read_to_string(&file).unwrap());

    let fields = [
        ("set-up", "set_up_ns"),
        ("map", "map_ns"),
        ("first touch of all pages", "first_touch_ns"),
        ("transfer", "transfer_ns"),
        ("transfer rate, GB/s", "gb_per_s"),
        ("hand-over, median", "hand_over_median_ns"),
        ("hand-over, p99", "hand_over_p99_ns"),
        ("tear-down", "tear_down_ns"),
    ];
    let side_by_side = rows(&page, "#side-by-side table");
    assert_eq!(side_by_side.len(), fields.len() + 1);
    for (name, cell) in &side_by_side[0].1 {
        let verified = outcome(&report, name)["verified"].as_bool().unwrap();
        let expected = if verified { "yes" } else { "not here" };
        assert_eq!(text(*cell), expected, "{name}");
    }
    for ((row, cells), (title, field)) in side_by_side[1..].iter().zip(fields) {
        assert_eq!(row, title);
        for (name, cell) in cells {
            let expected = &outcome(&report, name)[field];
            assert_equal(*cell, expected, &format!("{name} {field}"));
        }
    }

    let percentiles = ["min", "median", "p90", "p99", "p99_9", "max"];
    let hand_overs = rows(&page, "#hand-overs table");
    assert_eq!(hand_overs.len(), percentiles.len());
    for ((_, cells), percentile) in hand_overs.iter().zip(percentiles) {
        for (name, cell) in cells {
            let hand_over = &outcome(&report, name)["hand_over"];
            let expected = &hand_over[&format!("{percentile}_ns")];
            assert_equal(*cell, expected, &format!("{name} {percentile}"));
        }
    }

    let rates = rows(&page, "#rates table");
    let names: Vec<&str> = rates.iter().map(|row| row.0.as_str()).collect();
    assert_eq!(names, ["4 KiB", "16 KiB", "64 KiB"]);
    for name in MECHANISMS {
        assert_eq!(sizes(outcome(&report, name)).len(), rates.len());
    }
    for (index, (row, cells)) in rates.iter().enumerate() {
        for (name, cell) in cells {
            let curve = &outcome(&report, name)["curve"];
            let expected = &curve[index]["gb_per_s"];
            assert_equal(*cell, expected, &format!("{name} at {row}"));
        }
    }

    for row in all(&page, ".places tbody tr") {
        let cells = Selector::parse("th, td").unwrap();
        let cells: Vec<ElementRef> = row.select(&cells).collect();
        let outcome = outcome(&report, &text(cells[0]));
        for (cell, field) in
            cells[1..].iter().zip(["found_by", "left_after_sigkill"])
        {
            let expected = match outcome[field].as_array().map(Vec::as_slice) {
                None => "not here".to_owned(),
                Some([]) => "nothing".to_owned(),
                Some(places) => {
                    places.iter().map(|p| p.as_str().unwrap()).collect()
                }
            };
            assert_eq!(text(*cell), expected);
        }
    }
    let machine = text(all(&page, "#machine")[0]);
    for fact in ["kernel", "date", "version"] {
        let fact = report["machine"][fact].as_str().unwrap();
        assert!(machine.contains(fact), "{fact}: {machine}");
    }
    assert_lines_are_drawn(&page, &report);
    let dmabuf = outcome(&report, "dmabuf");
    if let Some(reason) = dmabuf["unavailable_because"].as_str() {
        let said = text(all(&page, ".absent")[0]);
        assert!(said.contains(reason), "{said}");
    }
}

/// Each mechanism that was measured, once for wide and once for narrow pages.
fn assert_lines_are_drawn(page: &Html, report: &Value) {
    for plot in ["#rates svg.wide", "#rates svg.narrow", "#hand-overs svg.wide"]
    {
        for name in ["sysv", "posix", "memfd", "dmabuf"] {
            let measured = outcome(report, name)["available"] == true;
            let lines = all(page, &format!("{plot} .line.{name}"));
            assert_eq!(lines.len(), usize::from(measured), "{plot} {name}");
            let names = all(page, &format!("{plot} text.{name}"));
            assert_eq!(names.len(), usize::from(measured), "{plot} {name}");
        }
        let marks = all(page, "#rates svg.wide path.mark.memfd");
        assert_eq!(marks.len(), 3);
    }
}

#[test]
fn the_page_needs_nothing_else_and_can_be_read_by_everyone() {
    let directory = Directory::new();
    let file = directory.path().join("page.html");
    assert!(output(&mut with_page(&file)).status.success());
    let source = fs::read_to_string(&file).unwrap();
    for outside in ["http:", "https:", "url(", "@import", "//"] {
        assert!(!source.contains(outside), "{outside}");
    }
    let page = parse(&source);
    assert!(all(&page, "script, link, img, iframe, object, a").is_empty());
    let policy = all(&page, "meta[http-equiv=Content-Security-Policy]");
    let policy = policy[0].attr("content").unwrap();
    assert_eq!(policy, "default-src 'none'; style-src 'unsafe-inline'");

    assert_eq!(all(&page, "html")[0].attr("lang"), Some("en"));
    assert_eq!(all(&page, "title").len(), 1 + all(&page, "svg title").len());
    assert_eq!(all(&page, "h1").len(), 1);
    assert!(all(&page, "h2").len() >= 6);
    assert!(all(&page, "th:not([scope])").is_empty());
    assert_eq!(all(&page, "caption").len(), all(&page, "table").len());
    let mut ids = HashSet::new();
    for element in all(&page, "[id]") {
        let id = element.attr("id").unwrap();
        assert!(ids.insert(id), "{id} is there twice");
    }
    let plots = all(&page, "svg");
    assert_eq!(plots.len(), 4);
    for plot in plots {
        assert_eq!(plot.attr("role"), Some("img"));
        let labels = plot.attr("aria-labelledby").unwrap();
        assert!(labels.split(' ').all(|label| ids.contains(label)));
        assert!(plot.attr("viewBox").is_some(), "it does not scale");
    }
}

#[test]
fn a_table_is_printed_beside_the_page() {
    let directory = Directory::new();
    let file = directory.path().join("page.html");
    let output = output(&mut with_page(&file));
    assert!(output.status.success(), "{output:?}");
    assert!(output.stdout.starts_with(b"65536 generated bytes"), "{output:?}");
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
    // As any file that a program makes.
    let umask = fs::metadata(directory.file("other", b"")).unwrap();
    let page = fs::metadata(&file).unwrap();
    assert_eq!(page.permissions(), umask.permissions());
}

#[test]
fn a_hyphen_is_standard_output() {
    let both = output(compare(SMALL).args(["--json", "--html=-"]));
    assert_eq!(both.status.code(), Some(2), "{both:?}");
    line(&both);
    let alone = output(compare(SMALL).arg("--html=-"));
    assert!(alone.status.success(), "{alone:?}");
    parse(&String::from_utf8(alone.stdout).unwrap());
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let closed = output(compare(SMALL).arg("--html=-").stdout(writer));
    assert!(closed.status.success(), "{closed:?}");
}

#[test]
fn only_a_page_has_a_greatest_payload() {
    let output = output(&mut compare(SMALL));
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    assert!(line(&output).contains("--html"), "{output:?}");
}

#[test]
fn a_page_that_was_there_is_replaced_where_a_link_leads() {
    let directory = Directory::new();
    let file = directory.file("page.html", b"before");
    let mode = fs::Permissions::from_mode(0o640);
    fs::set_permissions(&file, mode.clone()).unwrap();
    let link = directory.path().join("link");
    symlink("page.html", &link).unwrap();
    assert!(output(&mut with_page(&link)).status.success());
    assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
    parse(&fs::read_to_string(&file).unwrap());
    let now = fs::metadata(&file).unwrap().permissions();
    assert_eq!(now.mode() & 0o777, 0o640);
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 2);
}

/// Before anything is measured: then it would have been printed.
fn assert_refused(output: &Output, path: &Path, why: &str) {
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(output.stdout.is_empty(), "{output:?}");
    let expected = format!("shm: cannot write {}: {why}", path.display());
    assert_eq!(line(output), expected);
}

#[test]
fn a_page_that_cannot_be_written_is_told_before_anything_is_measured() {
    let directory = Directory::new();
    let fifo = directory.path().join("fifo");
    nix::unistd::mkfifo(&fifo, Mode::S_IRWXU).unwrap();
    let missing = directory.path().join("missing");
    let none = format!("there is no directory {}", missing.display());
    let round = directory.path().join("round");
    symlink("round", &round).unwrap();
    for (path, why) in [
        (missing.join("page.html"), none.as_str()),
        (directory.path().to_owned(), "it is no regular file"),
        (fifo, "it is no regular file"),
        ("/dev/null".into(), "it is no regular file"),
        (directory.path().join("new/"), "it is no regular file"),
        (directory.path().join("new/."), "it is no regular file"),
        (
            directory.path().join("a".repeat(256)),
            "File name too long (os error 36)",
        ),
        (round.clone(), "Too many levels of symbolic links (os error 40)"),
    ] {
        assert_refused(&output(&mut with_page(&path)), &path, why);
    }
    assert!(fs::symlink_metadata(&round).unwrap().is_symlink());
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 2);
}

#[test]
fn a_page_does_not_take_the_place_of_what_is_printed() {
    let directory = Directory::new();
    let file = directory.file("printed", b"");
    let open = || File::options().append(true).open(&file).unwrap();
    for path in [file.as_path(), Path::new("/dev/stdout")] {
        let output = output(with_page(path).stdout(open()));
        let why = "it is the standard output, to which --html=- writes";
        assert_refused(&output, path, why);
        assert!(fs::read(&file).unwrap().is_empty());
    }
}

#[test]
fn a_page_is_not_put_where_a_file_is_mounted() {
    alone_as_root(|| {
        small_dev_shm(1 << 20).unwrap();
        let directory = Directory::new();
        let file = directory.file("page.html", b"before");
        let (none, bind) = (None::<&str>, MsFlags::MS_BIND);
        mount(Some(&file), &file, none, bind, none).unwrap();
        let output = output(&mut with_page(&file));
        umount2(&file, MntFlags::empty()).unwrap();
        let why = "it is mounted there, and cannot be replaced";
        assert_refused(&output, &file, why);
    });
}

/// As `/dev/stderr` does, where that was removed.
#[test]
fn a_link_to_a_file_without_a_name_is_not_replaced() {
    let directory = Directory::new();
    let link = directory.path().join("link");
    symlink("/proc/self/fd/2", &link).unwrap();
    let file = directory.file("removed", b"");
    let removed = File::options().append(true).open(&file).unwrap();
    fs::remove_file(&file).unwrap();
    let output = output(with_page(&link).stderr(removed));
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(output.stdout.is_empty(), "{output:?}");
    assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
}

#[test]
fn a_page_is_not_put_where_its_user_may_not_write() {
    alone_as_root(|| {
        let directory = Directory::new();
        let everyone = fs::Permissions::from_mode(0o755);
        fs::set_permissions(directory.path(), everyone).unwrap();
        let as_nobody = |path: &Path| {
            let mut command = compare_as_nobody(&directory);
            command.args(SMALL).arg("--html").arg(path).output().unwrap()
        };
        let denied = "Permission denied (os error 13)";
        let new = directory.path().join("page.html");
        assert_refused(&as_nobody(&new), &new, denied);
        // It could be replaced in this directory, and is meant to stay.
        let open = fs::Permissions::from_mode(0o777);
        fs::set_permissions(directory.path(), open).unwrap();
        let kept = directory.file("kept.html", b"kept");
        assert_refused(&as_nobody(&kept), &kept, denied);
        assert_eq!(fs::read(&kept).unwrap(), b"kept");
        assert!(as_nobody(&new).status.success());
    });
}

#[test]
fn an_interrupted_run_leaves_no_page() {
    let directory = Directory::new();
    let before = directory.file("page.html", b"before");
    let mut command = compare([MANY, "--size=1MiB", "--html"]);
    let mut run = Run::start(command.arg(&before));
    let processes = run.wait_for("sysv");
    run.signal(Signal::SIGINT);
    let output = run.output();
    assert_eq!(output.status.signal(), Some(2), "{output:?}");
    assert_eq!(fs::read(&before).unwrap(), b"before");
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
    assert!(segments_of(&processes).is_empty());
}

#[test]
fn a_page_is_written_whatever_becomes_of_standard_output() {
    let directory = Directory::new();
    let file = directory.path().join("page.html");
    let full = File::options().write(true).open("/dev/full").unwrap();
    let output = output(with_page(&file).stdout(full));
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    parse(&fs::read_to_string(&file).unwrap());
}

#[test]
fn a_page_that_does_not_fit_leaves_the_one_that_was_there() {
    alone_as_root(|| {
        // Room for a segment of two pages, and not for the page.
        small_dev_shm(12 << 10).unwrap();
        let file = Path::new("/dev/shm/page.html");
        fs::write(file, b"before").unwrap();
        let mut command = compare(["--size=4KiB", "--rounds=10"]);
        command.args(["--up-to=4KiB", "--html"]).arg(file);
        let output = output(&mut command);
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        let line = line(&output);
        let expected = "shm: cannot write /dev/shm/page.html: \
                        No space left on device (os error 28)";
        assert_eq!(line, expected);
        // Nobody need measure again.
        assert!(output.stdout.starts_with(b"4096 generated"), "{output:?}");
        assert_eq!(fs::read(file).unwrap(), b"before");
        assert_eq!(fs::read_dir("/dev/shm").unwrap().count(), 1);
    });
}

#[test]
fn a_payload_without_room_is_left_out_and_its_reason_shown() {
    alone_as_root(|| {
        small_dev_shm(64 << 10).unwrap();
        let directory = Directory::new();
        let file = directory.path().join("page.html");
        let mut command = compare(["--size=4KiB", "--rounds=10"]);
        command.args(["--up-to=64KiB", "--html"]).arg(&file);
        let output = output(&mut command);
        assert!(output.status.success(), "{output:?}");
        assert!(output.stderr.is_empty(), "{output:?}");
        let page = parse(&fs::read_to_string(&file).unwrap());
        let reasons = all(&page, "#rates li");
        let reasons: Vec<String> = reasons.into_iter().map(text).collect();
        let [reason] = &reasons[..] else { panic!("{reasons:?}") };
        assert!(reason.starts_with("posix, 64 KiB: "), "{reason}");
        assert!(reason.contains("bytes free"), "{reason}");
        let rows = rows(&page, "#rates table");
        let (row, cells) = rows.last().unwrap();
        assert_eq!(row, "64 KiB");
        assert_eq!(text(cells[1].1), "left out");
        let marks = all(&page, "#rates svg.wide path.mark.posix");
        assert_eq!(marks.len(), rows.len() - 1);
    });
}

#[test]
fn a_file_name_is_text_in_the_page() {
    let directory = Directory::new();
    let name = "<script>alert('1')</script>&amp;\"\x1b[2J.raw";
    // A slash ends a name.
    let name = name.replace('/', "|");
    let payload = directory.file(&name, b"payload");
    let file = directory.path().join("page.html");
    let mut command = compare(["--up-to=4KiB", "--rounds=10"]);
    command.arg("--payload").arg(&payload).arg("--html").arg(&file);
    assert!(output(&mut command).status.success());
    let page = parse(&fs::read_to_string(&file).unwrap());
    assert!(all(&page, "script").is_empty());
    let shown = text(all(&page, "p code")[0]);
    let expected = name.replace('\x1b', "\\u{1b}");
    assert!(shown.ends_with(&expected), "{shown}");
}
