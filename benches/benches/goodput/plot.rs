//! The picture: a panel for each way, what the server answered in each second, and the limit as a line.

use std::path::Path;

use anyhow::{Result, anyhow};
use plotters::{coord::Shift, prelude::*};

use crate::simulation::{PER_SECOND, Run};

/// What is later than this is not drawn, but said.
const SECONDS: u32 = 130;
/// Nor is what is more than this in a second.
const MOST: u32 = 40;

const WIDTH: u32 = 1_000;
const PANEL: u32 = 130;
const TITLE: u32 = 60;

const SERVED: RGBColor = RGBColor(38, 128, 88);
const TOO_MANY: RGBColor = RGBColor(208, 70, 52);
const LIMIT: RGBColor = RGBColor(40, 40, 40);

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

pub(crate) fn draw(path: &Path, runs: &[Run]) -> Result<()> {
    // Drawn in memory first: what goes wrong with the file is then an ordinary error.
    let mut svg = String::new();
    drawn(&mut svg, runs).map_err(|error| anyhow!("{error}"))?;
    Ok(std::fs::write(path, svg)?)
}

fn drawn(svg: &mut String, runs: &[Run]) -> Result<(), Box<dyn std::error::Error>> {
    let panels = u32::try_from(runs.len())?;
    let height = TITLE + panels * PANEL + 20;
    let root = SVGBackend::with_string(svg, (WIDTH, height)).into_drawing_area();
    root.fill(&WHITE)?;
    let (title, below) = root.split_vertically(TITLE);
    head(&title)?;
    let (panel_area, _) = below.split_vertically(panels * PANEL);
    for (area, run) in panel_area.split_evenly((runs.len(), 1)).iter().zip(runs) {
        panel(area, run)?;
    }
    root.present()?;
    Ok(())
}

fn head(area: &Area<'_>) -> Result<(), Box<dyn std::error::Error>> {
    let text =
        "1,000 calls at once, to a server that allows 10 a second: its answers in each second";
    area.draw(&Text::new(text, (14, 8), ("sans-serif", 19)))?;
    let legend = [("served", SERVED, 14), ("answered 429", TOO_MANY, 110)];
    for (text, colour, x) in legend {
        area.draw(&Rectangle::new([(x, 38), (x + 12, 50)], colour.filled()))?;
        area.draw(&Text::new(text, (x + 18, 38), ("sans-serif", 14)))?;
    }
    area.draw(&PathElement::new(
        [(240, 44), (268, 44)],
        LIMIT.stroke_width(2),
    ))?;
    area.draw(&Text::new("the limit", (274, 38), ("sans-serif", 14)))?;
    Ok(())
}

fn panel(area: &Area<'_>, run: &Run) -> Result<(), Box<dyn std::error::Error>> {
    let (served, too_many) = per_second(run);
    let most = served.iter().zip(&too_many).map(|(a, b)| a + b).max();
    let caption = caption(run, most.unwrap_or(0));
    let mut chart = ChartBuilder::on(area)
        .margin_right(16)
        .x_label_area_size(22)
        .y_label_area_size(40)
        .caption(caption, ("sans-serif", 15))
        .build_cartesian_2d(0..SECONDS, 0..MOST)?;
    chart
        .configure_mesh()
        .disable_x_mesh()
        .light_line_style(TRANSPARENT)
        .x_labels(14)
        .y_labels(5)
        .x_label_formatter(&|second| format!("{second} s"))
        .label_style(("sans-serif", 11))
        .draw()?;
    let bars = served.iter().zip(&too_many).zip(0..);
    for ((&served, &too_many), second) in bars {
        let top = (served + too_many).min(MOST);
        let bar = |from, to| [(second, from), (second + 1, to)];
        chart
            .plotting_area()
            .draw(&Rectangle::new(bar(0, served.min(MOST)), SERVED.filled()))?;
        if too_many > 0 {
            let bar = Rectangle::new(bar(served.min(MOST), top), TOO_MANY.filled());
            chart.plotting_area().draw(&bar)?;
        }
    }
    let limit = [(0, PER_SECOND), (SECONDS, PER_SECOND)];
    chart.draw_series(LineSeries::new(limit, LIMIT.stroke_width(2)))?;
    Ok(())
}

/// `most` is how many answers there were in one second.
fn caption(run: &Run, most: u32) -> String {
    let (name, throttled) = (run.way.name(), run.throttled());
    let makespan = run.makespan().as_secs_f64();
    let cut = if makespan > f64::from(SECONDS) {
        ", of which the begin is shown"
    } else {
        ""
    };
    let high = if most > MOST {
        format!("; up to {most} in a second")
    } else {
        String::new()
    };
    format!("{name}: {makespan:.1} s{cut}, {throttled} answered 429{high}")
}

/// How many calls were served, and how many were not, in each second that is drawn.
fn per_second(run: &Run) -> (Vec<u32>, Vec<u32>) {
    let mut answers = (vec![0; SECONDS as usize], vec![0; SECONDS as usize]);
    for event in &run.events {
        let of = if event.served {
            &mut answers.0
        } else {
            &mut answers.1
        };
        let second = usize::try_from(event.at.as_secs()).unwrap_or(usize::MAX);
        if let Some(count) = of.get_mut(second) {
            *count += 1;
        }
    }
    answers
}
