//! The result of `compare` as one page that needs nothing else: no script, no
//! other file, no network, as its policy makes every browser enforce.
//!
//! What comes from outside, such as the name of a file, goes through
//! [`printable`], and `maud` escapes all that it is given.

use std::ffi::OsStr;

use indicatif::{BinaryBytes, HumanCount};
use maud::{DOCTYPE, Markup, PreEscaped, html};

use super::distribution::Distribution;
use super::machine::Machine;
use super::plot::Plot;
use super::plots;
use super::report::{Outcome, Report};
use super::units::{self, size};
use crate::output;

const STYLE: &str = include_str!("page.css");

const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'";

const TITLE: &str = "Shared memory of this machine, compared";

/// A cell of a table, for one mechanism.
type Cell<'a> = &'a dyn Fn(&Outcome) -> Markup;

impl Report {
    pub(crate) fn to_html(&self) -> String {
        let page = html! {
            (DOCTYPE)
            html lang="en" {
                head {
                    meta charset="utf-8";
                    meta http-equiv="Content-Security-Policy" content=(POLICY);
                    meta name="viewport"
                        content="width=device-width, initial-scale=1";
                    meta name="color-scheme" content="light dark";
                    title { (TITLE) }
                    style { (PreEscaped(STYLE)) }
                }
                body { main {
                    h1 { (TITLE) }
                    (self.summary())
                    (self.side_by_side())
                    (self.rates())
                    (self.hand_overs())
                    (self.after_a_crash())
                    (self.how_it_was_measured())
                    (self.machine.section())
                } }
            }
        };
        page.into_string()
    }

    fn summary(&self) -> Markup {
        let outcomes = self.mechanisms.iter();
        let verified = outcomes.clone().filter(|outcome| outcome.verified);
        let bytes = self.payload_bytes;
        html! {
            p {
                "The same payload, "
                @match &self.payload {
                    Some(path) => { "the file " code { (printable(path)) } ", " }
                    None => {}
                }
                (size(bytes)) ", from one process to another through every "
                "mechanism by which Linux processes share memory: "
                (verified.count()) " of " (self.mechanisms.len())
                " moved it, and every byte was checked."
            }
            @for outcome in outcomes {
                @if let Some(error) = &outcome.error {
                    p.warning {
                        strong { (outcome.name) " failed:" } " "
                        (printable(error))
                    }
                }
                @if let Some(reason) = &outcome.unavailable_because {
                    p.absent {
                        strong { (outcome.name) " is not here:" } " "
                        (printable(reason))
                    }
                }
            }
            @if self.machine.was_busy() {
                p.warning {
                    strong { "This machine had other work to do:" }
                    " what was interrupted took longer, above all where much "
                    "was moved, and the slowest hand-overs."
                }
            }
            @if !self.machine.optimised {
                p.warning {
                    strong { "These times mean little:" }
                    " this shm was built without optimisation."
                }
            }
        }
    }

    fn side_by_side(&self) -> Markup {
        let rows: [(&str, Cell); 9] = [
            ("every byte checked", &|o| html! { (verdict(o)) }),
            ("set-up", &|o| time(o.figures.set_up_ns)),
            ("map", &|o| time(o.figures.map_ns)),
            ("first touch of all pages", &|o| time(o.figures.first_touch_ns)),
            ("transfer", &|o| time(o.figures.transfer_ns)),
            ("transfer rate, GB/s", &|o| rate(o.figures.gb_per_s)),
            ("hand-over, median", &|o| time(o.hand_over_median_ns)),
            ("hand-over, p99", &|o| time(o.hand_over_p99_ns)),
            ("tear-down", &|o| time(o.figures.tear_down_ns)),
        ];
        html! {
            section id="side-by-side" {
                h2 { "Side by side" }
                (self.table("What it costs to move the payload", &rows))
            }
        }
    }

    fn rates(&self) -> Markup {
        let Some(sizes) = self.sizes() else { return html! {} };
        html! {
            section id="rates" {
                h2 { "Transfer rate against payload size" }
                figure {
                    (drawn(&plots::rates(self)))
                    figcaption {
                        "A payload is copied in, handed over, copied out and "
                        "answered; the median of 5 to 25 times. Each point "
                        "was measured by two processes of its own."
                    }
                }
                (self.left_out())
                (scrolling("Transfer rate of each payload, GB/s", html! {
                    thead { tr {
                        th scope="col" { "payload" }
                        @for outcome in &self.mechanisms {
                            th scope="col" { (outcome.name) }
                        }
                    } }
                    tbody { @for bytes in sizes { tr {
                        th scope="row" { (size(bytes)) }
                        @for outcome in &self.mechanisms {
                            td { (rate_at(outcome, bytes)) }
                        }
                    } } }
                }))
            }
        }
    }

    /// The payloads of the curves; all mechanisms have the same.
    fn sizes(&self) -> Option<Vec<usize>> {
        let curves = self.mechanisms.iter().flat_map(|o| &o.curve);
        let longest = curves.max_by_key(|curve| curve.len())?;
        Some(longest.iter().map(|point| point.payload_bytes).collect())
    }

    fn left_out(&self) -> Markup {
        let mut left_out = Vec::new();
        for outcome in &self.mechanisms {
            for point in outcome.curve.iter().flatten() {
                if let Some(reason) = &point.left_out_because {
                    left_out.push((outcome.name, point.payload_bytes, reason));
                }
            }
        }
        html! {
            @if !left_out.is_empty() {
                p { "There was no room for some payloads, which are left out:" }
                ul { @for (name, bytes, reason) in left_out {
                    li {
                        (name) ", " (size(bytes)) ": " (printable(reason))
                    }
                } }
            }
        }
    }

    fn hand_overs(&self) -> Markup {
        fn of(outcome: &Outcome, figure: fn(&Distribution) -> u64) -> Markup {
            time(outcome.hand_over.as_ref().map(figure))
        }
        let rows: [(&str, Cell); 6] = [
            ("quickest", &|o| of(o, |times| times.min_ns)),
            ("median", &|o| of(o, |times| times.median_ns)),
            ("p90", &|o| of(o, |times| times.p90_ns)),
            ("p99", &|o| of(o, |times| times.p99_ns)),
            ("p99.9", &|o| of(o, |times| times.p99_9_ns)),
            ("slowest", &|o| of(o, |times| times.max_ns)),
        ];
        html! {
            section id="hand-overs" {
                h2 { "Hand-over of a word" }
                figure {
                    (drawn(&plots::hand_overs(self)))
                    figcaption {
                        "One process changes a word, the other waits for it "
                        "and sees it: half of there and back, "
                        (HumanCount(self.rounds.into()).to_string())
                        " times. Both scales are logarithmic: "
                        "each step to the right is ten times as rare."
                    }
                }
                (self.table("How long a hand-over takes", &rows))
            }
        }
    }

    fn after_a_crash(&self) -> Markup {
        html! {
            section id="after-a-crash" {
                h2 { "After a crash" }
                p {
                    "Two more processes held a segment, and both were killed "
                    "with " code { "SIGKILL" } ". This is where somebody who "
                    "was told nothing finds it, and what is left for them to "
                    "find. Only those who may look into a process find a "
                    "memfd or a dma-buf there."
                }
                div.scroll {
                    table.places {
                        caption { "Where the segment was found" }
                        thead { tr {
                            th scope="col" { "mechanism" }
                            th scope="col" { "before" }
                            th scope="col" { "left after SIGKILL" }
                        } }
                        tbody { @for outcome in &self.mechanisms { tr {
                            th scope="row" { (outcome.name) }
                            td { (places(outcome, &outcome.found_by)) }
                            td { (places(outcome, &outcome.left_after_sigkill)) }
                        } } }
                    }
                }
            }
        }
    }

    fn how_it_was_measured(&self) -> Markup {
        let cpus = self.mechanisms.iter().find_map(|outcome| outcome.cpus);
        html! {
            section id="how" {
                h2 { "How it was measured" }
                p {
                    "For each mechanism, two processes were started, "
                    @match cpus {
                        Some([one, other]) => {
                            "kept on CPUs " (one) " and " (other)
                        }
                        None => { "on any CPUs" }
                    }
                    ". The sender creates the segment, and the receiver finds "
                    "it as one finds it with that mechanism. Waiting spins. "
                    "After each transfer, outside the time, both compute a "
                    "checksum of what they have, and the receiver sends all "
                    "of it back, which the sender compares byte by byte."
                }
                dl {
                    (entry("set-up", "the sender creates the segment, with its \
                        pages reserved"))
                    (entry("map", "and maps it; a System V segment is attached \
                        when it is created"))
                    (entry("first touch", "writes a byte to each of its pages"))
                    dt { "transfer" }
                    dd {
                        "copies the payload in, hands over; the receiver "
                        "copies it out and answers; median of "
                        (self.transfers)
                    }
                    (entry("tear-down", "after the receiver has let go, the \
                        sender unmaps and removes it"))
                }
                p {
                    "On a machine with other work to do, the times are those "
                    "of that machine: compare only what is on one page."
                }
            }
        }
    }

    /// A row for each figure, a column for each mechanism.
    fn table(&self, caption: &str, rows: &[(&str, Cell)]) -> Markup {
        scrolling(
            caption,
            html! {
                thead { tr {
                    td {}
                    @for outcome in &self.mechanisms {
                        th scope="col" { (outcome.name) }
                    }
                } }
                tbody { @for (title, cell) in rows { tr {
                    th scope="row" { (title) }
                    @for outcome in &self.mechanisms { td { (cell(outcome)) } }
                } } }
            },
        )
    }
}

impl Machine {
    fn section(&self) -> Markup {
        let bytes = |bytes: Option<u64>| {
            bytes.map(|bytes| BinaryBytes(bytes).to_string())
        };
        let processors = self.processors.map(|n| n.to_string());
        let virtual_machine = self.virtual_machine.map(|is_one| match is_one {
            true => "yes".to_owned(),
            false => "no".to_owned(),
        });
        let load = self.load_average.map(|load| format!("{load:.2}"));
        let facts = [
            ("date", Some(self.date.clone())),
            ("shm", Some(self.version.to_owned())),
            ("kernel", self.kernel.clone()),
            ("processor", self.processor.clone()),
            ("processors to use", processors),
            ("virtual machine", virtual_machine),
            ("memory", bytes(self.memory_bytes)),
            ("memory available", bytes(self.memory_available_bytes)),
            ("room in /dev/shm", bytes(self.dev_shm_bytes)),
            ("huge pages in shared memory", self.shmem_huge_pages.clone()),
            ("load average before", load),
        ];
        html! {
            section id="machine" {
                h2 { "The machine" }
                dl { @for (name, fact) in facts {
                    (entry(name, fact.as_deref().unwrap_or("not known")))
                } }
            }
        }
    }
}

fn drawn(plot: &Plot) -> Markup {
    html! {
        @if plot.lines.is_empty() { p { "Nothing was measured." } }
        @else { (plot.to_svg()) }
    }
}

/// A table that scrolls within itself where the page is too narrow for it.
fn scrolling(caption: &str, rows: Markup) -> Markup {
    html! {
        div.scroll tabindex="0" role="region" aria-label=(caption) {
            table.numbers { caption { (caption) } (rows) }
        }
    }
}

fn entry(name: &str, text: &str) -> Markup {
    html! { dt { (name) } dd { (printable(text)) } }
}

fn verdict(outcome: &Outcome) -> &'static str {
    match outcome {
        Outcome { available: false, .. } => "not here",
        Outcome { verified: true, .. } => "yes",
        _ => "NO",
    }
}

fn time(nanoseconds: Option<u64>) -> Markup {
    number(nanoseconds, units::time(nanoseconds))
}

/// Its unit is said above or beside.
fn rate(gb_per_s: Option<f64>) -> Markup {
    let text = gb_per_s.map_or(String::new(), units::three_digits);
    number(gb_per_s, text)
}

/// For people, and exactly for programs.
fn number<T: maud::Render>(exact: Option<T>, text: String) -> Markup {
    html! {
        @match exact {
            Some(exact) => { data value=(exact) { (text) } }
            None => { "–" }
        }
    }
}

fn rate_at(outcome: &Outcome, payload_bytes: usize) -> Markup {
    let mut points = outcome.curve.iter().flatten();
    let point = points.find(|point| point.payload_bytes == payload_bytes);
    match point {
        Some(point) if point.left_out_because.is_some() => {
            html! { "left out" }
        }
        Some(point) => rate(point.figures.gb_per_s),
        None => number(None::<u64>, String::new()),
    }
}

fn places(outcome: &Outcome, places: &Option<Vec<String>>) -> Markup {
    html! {
        @match places.as_deref() {
            None if !outcome.available => { "not here" }
            None => { "not measured" }
            Some([]) => { "nothing" }
            Some(places) => { @for place in places {
                div { code { (printable(place)) } }
            } }
        }
    }
}

fn printable(text: &str) -> String {
    output::printable(OsStr::new(text))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compare::curve::Point;
    use crate::compare::kind::Mechanism;
    use crate::compare::payload::Payload;
    use scraper::{Html, Selector};
    use shm_common::Size;
    use std::path::PathBuf;

    const HOSTILE: &str = "\"><script>alert('1')</script>&lt;\u{1b}[2J\u{202e}";

    fn page(payload: Payload, outcomes: Vec<Outcome>) -> Html {
        let machine = Machine::default();
        let page = Report::new(machine, &payload, 1, outcomes).to_html();
        let page = Html::parse_document(&page);
        assert!(page.errors.is_empty(), "{:?}", page.errors);
        page
    }

    fn texts(page: &Html, selector: &str) -> Vec<String> {
        let selector = Selector::parse(selector).unwrap();
        page.select(&selector).map(|element| element.text().collect()).collect()
    }

    #[test]
    fn what_comes_from_outside_is_text_and_nothing_else() {
        let mut outcome = Outcome {
            name: "memfd",
            error: Some(HOSTILE.to_owned()),
            found_by: Some(vec![HOSTILE.to_owned()]),
            ..Outcome::default()
        };
        let left_out = Point::left_out(Size::KIB, HOSTILE.to_owned());
        outcome.curve = Some(vec![left_out]);
        outcome.unavailable_because = Some(HOSTILE.to_owned());
        let payload = Payload::File(PathBuf::from(HOSTILE), Size::KIB);
        let page = page(payload, vec![outcome]);
        assert!(texts(&page, "script").is_empty());
        let harmless = HOSTILE.replace('\u{1b}', "\\u{1b}");
        let harmless = harmless.replace('\u{202e}', "\\u{202e}");
        assert_eq!(texts(&page, "p code")[0], harmless);
        assert_eq!(texts(&page, "td code"), [harmless.as_str()]);
        for selector in [".warning", ".absent", "#rates li"] {
            let texts = texts(&page, selector);
            assert!(texts[0].ends_with(&harmless), "{selector}: {texts:?}");
        }
    }

    #[test]
    fn where_nothing_was_measured_that_is_said() {
        let failed =
            Outcome::failed(Mechanism::Posix, 1024, "no room".to_owned());
        let failed = Outcome { curve: Some(vec![]), ..failed };
        let page = page(Payload::Generated(Size::KIB), vec![failed]);
        assert!(texts(&page, "svg").is_empty());
        for section in ["#rates", "#hand-overs"] {
            let said = texts(&page, &format!("{section} figure p"));
            assert_eq!(said, ["Nothing was measured."]);
        }
        let cells = texts(&page, "#side-by-side td");
        // The corner, and the figures.
        assert_eq!(cells[..2], ["", "NO"]);
        assert!(cells[2..].iter().all(|cell| cell == "–"), "{cells:?}");
        let places = texts(&page, ".places td");
        assert_eq!(places, ["not measured", "not measured"]);
    }
}
