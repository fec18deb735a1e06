//! Plots as SVG, for `docs/`.

use std::io;
use std::path::Path;

use plotters::prelude::*;

pub(crate) use plotters::prelude::SeriesLabelPosition;

use crate::measure::must;

pub(crate) struct Series<'a> {
    pub(crate) name: &'a str,
    pub(crate) points: Vec<(f64, f64)>,
}

/// A line for each series; the x axis is bytes, and logarithmic.
pub(crate) struct Plot<'a> {
    pub(crate) title: &'a str,
    pub(crate) x: &'a str,
    pub(crate) y: &'a str,
    pub(crate) series: Vec<Series<'a>>,
    /// Where the lines leave room for it.
    pub(crate) legend: SeriesLabelPosition,
}

/// Told apart also by those who do not see all colours (Okabe and Ito).
const COLOURS: [RGBColor; 6] = [
    RGBColor(0, 114, 178),
    RGBColor(230, 159, 0),
    RGBColor(0, 158, 115),
    RGBColor(213, 94, 0),
    RGBColor(204, 121, 167),
    RGBColor(86, 180, 233),
];

impl Plot<'_> {
    pub(crate) fn write(&self, path: &Path) -> io::Result<()> {
        self.draw(path).map_err(|error| io::Error::other(error.to_string()))
    }

    fn draw(&self, path: &Path) -> Result<(), DrawingAreaErrorKind<io::Error>> {
        let points = || self.series.iter().flat_map(|line| &line.points);
        let ends = |number: fn(&(f64, f64)) -> f64| {
            points().map(number).fold((f64::MAX, 0.0_f64), |(low, high), at| {
                (low.min(at), high.max(at))
            })
        };
        let (left, right) = ends(|point| point.0);
        let (_, top) = ends(|point| point.1);
        let area = SVGBackend::new(path, (900, 480)).into_drawing_area();
        area.fill(&WHITE)?;
        let mut chart = ChartBuilder::on(&area)
            .caption(self.title, ("sans-serif", 20))
            .margin(12)
            // Half of the last label.
            .margin_right(30)
            .x_label_area_size(44)
            .y_label_area_size(56)
            .build_cartesian_2d(
                (left..right).log_scale().base(2.0),
                0.0..top * 1.1,
            )?;
        chart
            .configure_mesh()
            .x_desc(self.x)
            .y_desc(self.y)
            .x_labels(12)
            .x_label_formatter(&|bytes| size(*bytes))
            .light_line_style(TRANSPARENT)
            .draw()?;
        for (line, colour) in self.series.iter().zip(COLOURS) {
            let style = colour.stroke_width(2);
            chart
                .draw_series(LineSeries::new(line.points.clone(), style))?
                .label(line.name)
                .legend(move |(x, y)| {
                    PathElement::new([(x, y), (x + 20, y)], style)
                });
            let dots = line.points.iter();
            chart.draw_series(
                dots.map(|point| Circle::new(*point, 3, colour.filled())),
            )?;
        }
        chart
            .configure_series_labels()
            .position(self.legend.clone())
            .background_style(WHITE.mix(0.8))
            .border_style(BLACK.mix(0.3))
            .draw()?;
        area.present()
    }
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "the labels of the axis are whole numbers of bytes"
)]
fn size(bytes: f64) -> String {
    must(shm_common::Size::new(bytes.round() as usize)).to_string()
}
