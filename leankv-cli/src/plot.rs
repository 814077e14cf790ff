//! Pictures of an evaluation: quality against bytes, and memory by layer and KV head.

use std::path::Path;

use leankv_model::eval::{ConfigReport, Report};
use plotters::coord::Shift;
use plotters::prelude::*;

use crate::failure::{Failure, at_path};
use crate::heat_map::{self, HeatMap, Panel, text_width};

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
type Drawn = Result<(), Box<dyn std::error::Error>>;

/// Draws `quality.svg` and `memory.svg` in a folder.
pub(crate) fn draw(report: &Report, folder: &Path) -> Result<(), Failure> {
    std::fs::create_dir_all(folder).map_err(at_path(folder))?;
    let path = folder.join("quality.svg");
    let points = points(report);
    let area = SVGBackend::new(&path, size(&report.model, &points)).into_drawing_area();
    quality(&report.model, &points, &area)
        .map_err(|error| Failure::machine(format_args!("{}: {error}", path.display())))?;
    println!("quality against bytes: {}", path.display());

    let shown: Vec<&ConfigReport> = report.configs.iter().filter(|c| !c.choice.is_uniform()).collect();
    if !shown.is_empty() {
        let path = folder.join("memory.svg");
        heat_map::draw(&memory(report, &shown), &path)?;
        println!("memory by layer and KV head: {}", path.display());
    }
    Ok(())
}

/// How a kind of cache is drawn.
fn colour(config: &ConfigReport) -> RGBColor {
    use leankv_kernels::policy::PolicySpec;
    match config.choice.policy.stock() {
        _ if config.choice.variants.as_ref().is_some_and(|variants| !variants.is_empty()) => {
            full_palette::PURPLE
        }
        Some(PolicySpec::Uniform) => full_palette::GREY_700,
        Some(PolicySpec::LeanKv { .. } | PolicySpec::Paper | PolicySpec::Released) => full_palette::BLUE_700,
        _ => full_palette::ORANGE_800,
    }
}

/// A cache in the plot.
pub(crate) struct Point {
    /// What stands beside its number.
    pub(crate) name: String,
    /// Its colour.
    pub(crate) colour: RGBColor,
    /// How many times fewer bytes than FP16.
    pub(crate) smaller: f64,
    /// KL divergence from FP16.
    pub(crate) kl: f64,
}

/// Below it a KL divergence is drawn as this: the axis is logarithmic.
const FLOOR: f64 = 1e-5;

/// Quality against bytes as the text of a picture, from the largest cache to the smallest.
pub(crate) fn svg(model: &str, mut points: Vec<Point>) -> Result<String, Box<dyn std::error::Error>> {
    points.iter_mut().for_each(|point| point.kl = point.kl.max(FLOOR));
    points.sort_by(|a, b| a.smaller.total_cmp(&b.smaller));
    let mut text = String::new();
    quality(model, &points, &SVGBackend::with_string(&mut text, size(model, &points)).into_drawing_area())?;
    Ok(text)
}

/// From the largest cache to the smallest. FP16 itself has a KL of 0 and is not drawn.
fn points(report: &Report) -> Vec<Point> {
    let mut points: Vec<Point> = report.configs[1..]
        .iter()
        .filter_map(|config| {
            Some(Point {
                name: config.choice.to_string(),
                colour: colour(config),
                smaller: config.memory.compression(),
                kl: config.figures?.kl.mean.max(FLOOR),
            })
        })
        .collect();
    points.sort_by(|a, b| a.smaller.total_cmp(&b.smaller));
    points
}

/// Sizes of text: title, model, names.
const SIZES: [i32; 3] = [18, 13, 12];
const TITLE: &str = "How far predictions move from FP16's, against bytes";
/// Room at the edges, for title and model, and of a name's line.
const EDGE: i32 = 16;
const HEADER: i32 = 58;
const LINE: i32 = 22;

impl Point {
    /// Its line beside the plot.
    fn line(&self, at: usize) -> String {
        format!("{}  {} ({:.1}x)", at + 1, self.name, self.smaller)
    }
}

/// Room for the names at the right of the plot.
fn names_width(points: &[Point]) -> i32 {
    let widths = points.iter().enumerate().map(|(at, point)| text_width(&point.line(at), SIZES[2]));
    widths.max().unwrap_or(0) + 3 * EDGE
}

fn size(model: &str, points: &[Point]) -> (u32, u32) {
    let width = (850 + names_width(points)).max(text_width(model, SIZES[1]) + 2 * EDGE);
    let height = (HEADER + LINE * points.len() as i32 + EDGE).max(700);
    (width as u32, height as u32)
}

/// KL against compression; both axes are logarithmic. Points have numbers, and names stand beside the plot.
fn quality(model: &str, points: &[Point], area: &Area<'_>) -> Drawn {
    area.fill(&WHITE)?;
    let text = |size: i32| ("sans-serif", size).into_font().color(&BLACK);
    area.draw(&Text::new(TITLE, (EDGE, 12), text(SIZES[0])))?;
    area.draw(&Text::new(model.to_owned(), (EDGE, 36), text(SIZES[1])))?;
    let span = |values: &mut dyn Iterator<Item = f64>, margin: f64| {
        let (low, high) = values.fold((f64::MAX, f64::MIN), |(a, b), x| (a.min(x), b.max(x)));
        if low > high { (0.5, 2.0) } else { (low / margin, high * margin) }
    };
    let (x0, x1) = span(&mut points.iter().map(|p| p.smaller), 1.2);
    let (y0, y1) = span(&mut points.iter().map(|p| p.kl), 1.6);
    let mut chart = ChartBuilder::on(area)
        .margin(14)
        .margin_top(HEADER)
        .margin_right(names_width(points))
        .x_label_area_size(46)
        .y_label_area_size(76)
        .build_cartesian_2d(x0.ln()..x1.ln(), (y0..y1).log_scale())?;
    chart
        .configure_mesh()
        .x_desc("times smaller than FP16, in true bytes")
        .y_desc("KL divergence, nats a token")
        .x_label_formatter(&|x| format!("{:.1}", x.exp()))
        .y_label_formatter(&|y| format!("{y:.0e}"))
        .light_line_style(full_palette::GREY_100)
        .draw()?;
    let (width, _) = area.dim_in_pixel();
    let left = width as i32 - names_width(points) + EDGE;
    for (at, point) in points.iter().enumerate() {
        let Point { colour, smaller, kl, .. } = point;
        let style = |size: i32| ("sans-serif", size).into_font().color(colour);
        let mark = EmptyElement::at((smaller.ln(), *kl))
            + Circle::new((0, 0), 5, colour.filled())
            + Text::new((at + 1).to_string(), (7, -13), style(SIZES[2]));
        chart.draw_series(std::iter::once(mark))?;
        let top = HEADER + LINE * at as i32;
        area.draw(&Circle::new((left, top + 7), 4, colour.filled()))?;
        area.draw(&Text::new(point.line(at), (left + 10, top), style(SIZES[2])))?;
    }
    Ok(area.present()?)
}

/// One panel a cache, of those that treat heads differently.
fn memory(report: &Report, shown: &[&ConfigReport]) -> HeatMap {
    let panel = |config: &&ConfigReport| Panel {
        name: config.choice.to_string(),
        smaller: config.memory.compression(),
        parts: config.memory.head_parts(),
    };
    HeatMap {
        title: format!("{}: memory by layer (down) and KV head (across)", report.model),
        layers: (0..report.layers).map(|layer| layer.to_string()).collect(),
        kv_heads: report.kv_heads,
        panels: shown.iter().map(panel).collect(),
    }
}

#[cfg(test)]
mod tests {
    use plotters::prelude::*;

    use super::{Point, TITLE, quality, size};
    use crate::svg::{assert_inside, texts};

    #[test]
    fn every_text_of_the_plot_lies_inside() {
        let model = "a-model-whose-name-is-long-".repeat(8);
        let names = ["K4V4", "K8V4/K4V2+offset+hadamard@1/11:heavy-hitter"];
        for count in [1, 2, 40] {
            let point = |at: usize| Point {
                name: names[at % 2].to_owned(),
                colour: BLUE,
                smaller: 1.5 + at as f64,
                kl: 0.001 * (at + 1) as f64,
            };
            let points: Vec<Point> = (0..count).map(point).collect();
            let mut svg = String::new();
            let area = SVGBackend::with_string(&mut svg, size(&model, &points)).into_drawing_area();
            quality(&model, &points, &area).unwrap();
            drop(area);
            assert_inside(&svg);
            let shown: Vec<String> = texts(&svg).into_iter().map(|text| text.content).collect();
            for part in [TITLE, &model, &points[count - 1].line(count - 1)] {
                assert!(shown.iter().any(|text| text == part), "`{part}` is missing in {shown:?}");
            }
        }
    }
}
