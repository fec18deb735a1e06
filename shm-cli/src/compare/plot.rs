//! Lines over two axes, as SVG that stands in a page: it scales with the page,
//! takes its colours from the style sheet, and says in words what it shows.
//!
//! Libraries for plots write fixed sizes and colours, and no words, so these
//! few shapes are written here.

use maud::{Markup, html};

/// One number to one place on an axis.
#[derive(Clone, Copy)]
pub(crate) enum Scale {
    Linear,
    Logarithmic,
}

pub(crate) struct Axis {
    pub(crate) title: &'static str,
    pub(crate) scale: Scale,
    pub(crate) from: f64,
    pub(crate) to: f64,
    /// Where a line of the grid is, and what it is called; the first ones go
    /// before the others where there is no room for all names.
    pub(crate) ticks: Vec<(f64, String)>,
}

pub(crate) struct Line {
    /// Also the class by which the style sheet colours it.
    pub(crate) name: &'static str,
    pub(crate) points: Vec<(f64, f64)>,
    /// What each point says of itself, if they are to be marked.
    pub(crate) marks: Option<Vec<String>>,
}

pub(crate) struct Plot {
    /// Of the element; others on the page have other ones.
    pub(crate) id: &'static str,
    pub(crate) title: &'static str,
    /// The same in words, for who does not see it.
    pub(crate) description: String,
    pub(crate) x: Axis,
    pub(crate) y: Axis,
    pub(crate) lines: Vec<Line>,
}

/// For a width of the page: its letters are as large as those around.
struct Frame {
    class: &'static str,
    width: f64,
    height: f64,
}

const FRAMES: [Frame; 2] = [
    Frame { class: "wide", width: 760.0, height: 400.0 },
    Frame { class: "narrow", width: 340.0, height: 300.0 },
];

/// The edges between the plot and its frame, with room for what is written
/// there in letters of 13.
const LEFT: f64 = 54.0;
const RIGHT: f64 = 74.0;
const TOP: f64 = 26.0;
const BOTTOM: f64 = 46.0;
/// Of one letter.
const LETTER: (f64, f64) = (7.0, 15.0);

impl Axis {
    /// From 0 to 1.
    fn place(&self, number: f64) -> f64 {
        let scaled = |number: f64| match self.scale {
            Scale::Linear => number,
            Scale::Logarithmic => number.max(f64::MIN_POSITIVE).ln(),
        };
        let (from, to) = (scaled(self.from), scaled(self.to));
        let place = (scaled(number) - from) / (to - from);
        // Also where there is nothing between the ends.
        if place.is_finite() { place.clamp(0.0, 1.0) } else { 0.0 }
    }
}

impl Plot {
    /// Once for a wide page and once for a narrow one; the style sheet shows
    /// one of them.
    pub(crate) fn to_svg(&self) -> Markup {
        html! {
            @for frame in &FRAMES { (self.draw(frame)) }
        }
    }

    fn draw(&self, frame: &Frame) -> Markup {
        let Frame { class, width, height } = frame;
        let title = format!("{}-{class}-title", self.id);
        let description = format!("{}-{class}-description", self.id);
        let (right, bottom) = (width - RIGHT, height - BOTTOM);
        html! {
            svg class={ "plot " (class) }
                viewBox={ "0 0 " (width) " " (height) }
                role="img" aria-labelledby={ (title) " " (description) }
            {
                title id=(title) { (self.title) }
                desc id=(description) { (self.description) }
                (self.grid(frame))
                text class="axis" x="0" y="13" { (self.y.title) }
                text class="axis" x=(place((LEFT + right) / 2.0))
                    y=(place(height - 8.0)) text-anchor="middle"
                    { (self.x.title) }
                path class="frame"
                    d={ "M" (LEFT) " " (TOP) "V" (bottom) "H" (right) } {}
                @for line in &self.lines { (self.line(line, frame)) }
                (self.names(frame))
            }
        }
    }

    fn grid(&self, frame: &Frame) -> Markup {
        let (right, bottom) = (frame.width - RIGHT, frame.height - BOTTOM);
        let x = |number| self.at((number, self.y.from), frame).0;
        let y = |number| self.at((self.x.from, number), frame).1;
        let (letter, line) = LETTER;
        let width = |(number, name): &(f64, String)| {
            #[expect(clippy::cast_precision_loss, reason = "a short name")]
            let width = letter * (name.chars().count() + 1) as f64;
            (x(*number), width)
        };
        let height = |(number, _): &(f64, String)| (y(*number), line);
        html! {
            @for (number, _) in &self.x.ticks {
                path class="grid" d={ "M" (place(x(*number))) " " (TOP) "V"
                    (bottom) } {}
            }
            @for (number, _) in &self.y.ticks {
                path class="grid" d={ "M" (LEFT) " " (place(y(*number))) "H"
                    (right) } {}
            }
            @for (number, name) in fitting(&self.x.ticks, width) {
                text x=(place(x(*number))) y=(bottom + 17.0)
                    text-anchor="middle" { (name) }
            }
            @for (number, name) in fitting(&self.y.ticks, height) {
                text x=(LEFT - 6.0) y=(place(y(*number) + 4.0))
                    text-anchor="end" { (name) }
            }
        }
    }

    fn line(&self, line: &Line, frame: &Frame) -> Markup {
        let points = || line.points.iter().map(|point| self.at(*point, frame));
        let joined: Vec<String> = points()
            .map(|(x, y)| format!("{},{}", place(x), place(y)))
            .collect();
        html! {
            polyline class={ "line " (line.name) } points=(joined.join(" ")) {}
            @for (at, says) in points().zip(line.marks.iter().flatten()) {
                path class={ "mark " (line.name) } d=(mark(line.name, at))
                    { title { (says) } }
            }
        }
    }

    /// The name of each line, beside its end.
    fn names(&self, frame: &Frame) -> Markup {
        let mut ends: Vec<(&str, (f64, f64))> = self
            .lines
            .iter()
            .filter_map(|line| Some((line.name, *line.points.last()?)))
            .map(|(name, end)| (name, self.at(end, frame)))
            .collect();
        ends.sort_by(|one, other| one.1.1.total_cmp(&other.1.1));
        let heights: Vec<f64> = ends.iter().map(|(_, end)| end.1).collect();
        // Clear of what the axis below says.
        let heights = apart(&heights, TOP, frame.height - BOTTOM - 6.0);
        let right = frame.width - RIGHT;
        html! {
            @for ((name, (x, y)), height) in ends.iter().zip(heights) {
                path class={ "leader " (name) }
                    d={ "M" (place(*x)) " " (place(*y)) "L" (right + 9.0) " "
                    (place(height)) } {}
                text class={ "name " (name) } x=(right + 12.0)
                    y=(place(height + 4.0)) { (name) }
            }
        }
    }

    /// Where a point is in the picture.
    fn at(&self, (x, y): (f64, f64), frame: &Frame) -> (f64, f64) {
        let width = frame.width - LEFT - RIGHT;
        let height = frame.height - TOP - BOTTOM;
        let (x, y) = (self.x.place(x), self.y.place(y));
        (LEFT + x * width, TOP + (1.0 - y) * height)
    }
}

/// To a tenth: what is finer cannot be seen.
fn place(number: f64) -> f64 {
    (number * 10.0).round() / 10.0
}

/// A shape of its own for each mechanism.
fn mark(name: &str, (x, y): (f64, f64)) -> String {
    let (x, y) = (place(x), place(y));
    match name {
        "sysv" => {
            format!("M{x} {y}m-3.5 0a3.5 3.5 0 1 0 7 0a3.5 3.5 0 1 0-7 0")
        }
        "posix" => format!("M{x} {y}m-3.5-3.5h7v7h-7z"),
        "memfd" => format!("M{x} {y}m0-4.5l4.5 8h-9z"),
        _ => format!("M{x} {y}m0-5l5 5l-5 5l-5-5z"),
    }
}

/// Those whose names do not touch the one before: the middle and the extent of
/// each are given by `extent`.
fn fitting(
    ticks: &[(f64, String)],
    extent: impl Fn(&(f64, String)) -> (f64, f64),
) -> Vec<&(f64, String)> {
    let mut fitting: Vec<&(f64, String)> = Vec::new();
    for tick in ticks {
        let (middle, long) = extent(tick);
        let clear = fitting.iter().all(|other| {
            let (theirs, length) = extent(other);
            (middle - theirs).abs() >= (long + length) / 2.0
        });
        if clear {
            fitting.push(tick);
        }
    }
    fitting
}

/// Heights in the same order, at least a line of letters from one another,
/// and as near to those wanted as may be.
fn apart(wanted: &[f64], top: f64, bottom: f64) -> Vec<f64> {
    let line = LETTER.1;
    let mut heights = wanted.to_vec();
    let mut lowest = f64::MIN;
    for height in &mut heights {
        *height = height.max(lowest).max(top);
        lowest = *height + line;
    }
    let mut highest = bottom;
    for height in heights.iter_mut().rev() {
        *height = height.min(highest);
        highest = *height - line;
    }
    heights
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_lines_that_end_together_stand_apart() {
        assert_eq!(apart(&[50.0, 100.0], 0.0, 300.0), [50.0, 100.0]);
        assert_eq!(apart(&[99.0, 100.0], 0.0, 300.0), [99.0, 114.0]);
        assert_eq!(apart(&[299.0, 300.0], 0.0, 300.0), [285.0, 300.0]);
        assert_eq!(apart(&[-5.0, 0.0, 1.0], 0.0, 300.0), [0.0, 15.0, 30.0]);
        assert!(apart(&[], 0.0, 300.0).is_empty());
    }

    #[test]
    fn names_that_would_touch_are_left_out() {
        let tick = |at: f64| (at, String::new());
        let ticks = [tick(0.0), tick(50.0), tick(5.0), tick(40.0)];
        let shown = fitting(&ticks, |(at, _)| (*at, 10.0));
        let shown: Vec<f64> = shown.iter().map(|(at, _)| *at).collect();
        assert_eq!(shown, [0.0, 50.0, 40.0]);
    }

    #[test]
    fn an_axis_places_numbers_between_its_ends() {
        let axis = |scale, from, to| Axis {
            title: "",
            scale,
            from,
            to,
            ticks: vec![],
        };
        let linear = axis(Scale::Linear, 0.0, 10.0);
        assert_eq!(linear.place(5.0), 0.5);
        assert_eq!(linear.place(11.0), 1.0);
        let logarithmic = axis(Scale::Logarithmic, 1.0, 100.0);
        assert!((logarithmic.place(10.0) - 0.5).abs() < 1e-9);
        assert_eq!(logarithmic.place(0.0), 0.0);
        assert_eq!(axis(Scale::Linear, 3.0, 3.0).place(3.0), 0.0);
    }
}
